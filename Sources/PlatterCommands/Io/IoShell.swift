import BlockCore
import BlockFilters
import BlockFormats
import BlockProtocols

/// A session of `io`: the open image, if any, the requests under way, and whether anything failed.
///
/// Used on one thread; requests that run on others hand their results over through ``requests``.
final class IoShell {
    /// How an image is opened.
    struct Opening {
        var name: ImageName?
        var settings = OpenSettings(readOnly: false)
        /// Whether writes go to a temporary file.
        var isTemporary = false
    }

    let context: CommandContext
    let requests = IoRequests()
    /// The jobs on the image, and how those ended that nobody has waited for.
    let jobs = IoJobList()
    /// The disk of the open image.
    private(set) var device: BlockDevice? {
        didSet { node?.statistics.measuresTime = true }
    }
    var node: BlockNode? { device?.root }
    /// How the image was opened.
    private(set) var opening = Opening()
    /// Whether buffers are misaligned on purpose.
    var misaligns = false
    /// Whether a command has failed.
    private(set) var hasFailed = false
    /// Whether the session takes no further commands.
    var isDone = false

    /// The byte that is written without `-P`.
    static let usualPattern: UInt8 = 0xCD

    init(_ context: CommandContext) { self.context = context }

    var terminal: Terminal { context.terminal }

    // MARK: Saying things

    func print(_ line: String) { terminal.print(line + "\n") }

    /// A line on standard error without the program's name.
    func complainPlainly(_ line: String) { terminal.error(line) }

    /// Prints the reports of requests that have ended meanwhile.
    func printEndedReports() { terminal.print(requests.takeReports()) }

    /// The time for which the shell waits for a command while a request is held at a breakpoint.
    private static let patienceNanoseconds = 250_000_000
    private static let pauseNanoseconds = 500_000

    func requestsAreHeld(in disk: BlockDevice) -> Bool {
        disk.root.flatMap { debugger(of: $0) }?.suspendedRequests ?? 0 > 0
    }

    /// Makes a request and prints its report. While requests are held at breakpoints, one that has not ended
    /// in time goes on beside the commands that follow, since one of them may have to resume the request that
    /// it waits for.
    func perform(_ disk: BlockDevice, _ work: @escaping @Sendable () -> IoOutcome) throws(IoFailure) {
        guard requestsAreHeld(in: disk) else {
            let outcome = work()
            printEndedReports()
            terminal.print(outcome.text)
            if outcome.hasFailed { throw .silent }
            return
        }
        let id = requests.start(0..<0, writes: false, work)
        let began = MonotonicClock.nanoseconds()
        while requests.isUnderWay(id) {
            let isPatient = MonotonicClock.nanoseconds() - began < Self.patienceNanoseconds
            guard isPatient || !requestsAreHeld(in: disk) else { break }
            WorkerThreads.sleep(nanoseconds: Self.pauseNanoseconds)
        }
        printEndedReports()
    }

    // MARK: Commands

    /// Runs a line. A failure is printed, and counts for the exit status.
    func run(_ line: String) {
        let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).map(String.init)
        guard let word = words.first else { return }
        let isQemu = context.isCalledAsQemu
        guard let verb = IoCatalog.verb(named: word, asQemu: isQemu) else {
            complainPlainly("command \"\(word)\" not found")
            let names = IoCatalog.verbs(asQemu: isQemu).map(\.name)
            if !isQemu, let hint = NearestName.hint(word, among: names) {
                complainPlainly(hint)
            }
            hasFailed = true
            return
        }
        let call = IoCall(verb: verb, word: word, arguments: Array(words.dropFirst()))
        do { try run(call) } catch {
            hasFailed = true
            report(error, verb)
        }
    }

    private func run(_ call: IoCall) throws {
        if node == nil, call.verb.needsImage {
            complainPlainly("no file open, try 'help open'")
            throw IoFailure.silent
        }
        let count = call.arguments.count
        if let complaint = call.verb.complaint(aboutCount: count, calledAs: call.word) {
            complainPlainly(complaint)
            throw IoFailure.silent
        }
        switch call.verb.work {
        case .shell(let work): try work(self, call)
        case .image(let work):
            guard let node else { return }
            try checkMode(call.verb, node)
            try work(self, node, call)
        case .disk(let work):
            guard let device, let node else { return }
            try checkMode(call.verb, node)
            try work(self, device, call)
        }
    }

    private func checkMode(_ verb: IoVerb, _ node: BlockNode) throws(IoFailure) {
        if verb.writes && node.isReadOnly { throw .complaint("Block node is read-only", hint: nil) }
    }

    private func report(_ error: any Error, _ verb: IoVerb) {
        switch error {
        case IoFailure.usage: print(verb.usage)
        case IoFailure.output(let line): print(line)
        case IoFailure.complaint(let message, let hint): context.complain(message, hint: hint)
        case IoFailure.silent: break
        case let error as BlockError: context.complain(error)
        case let failure as CommandFailure: failure.messages.forEach { context.complain($0) }
        default: context.complain("\(error)")
        }
    }

    // MARK: The image

    /// Opens an image.
    ///
    /// - Throws: `can't open device NAME: reason`.
    func open(_ opening: Opening) throws(BlockError) {
        do throws(BlockError) {
            device = Self.device(try openNode(opening))
            self.opening = opening
        } catch {
            let name = opening.name.map { $0.isOptions || $0.text.isEmpty ? "" : " device \($0.text)" } ?? ""
            throw error.prefixed("can't open\(name)")
        }
    }

    /// The disk over a node. The shell shows each error.
    private static func device(_ node: BlockNode) -> BlockDevice {
        let device = BlockDevice(name: "disk0", root: node)
        device.policy = BlockDevice.ErrorPolicy(read: .report, write: .report)
        return device
    }

    private func openNode(_ opening: Opening) throws(BlockError) -> BlockNode {
        guard let name = opening.name else {
            throw BlockError(.invalidArgument, "Must specify either driver or file")
        }
        var settings = opening.settings
        if settings.forceShare && !settings.readOnly {
            throw BlockError(.invalidArgument, "force-share=on can only be used with read-only images")
        }
        if settings.copyOnRead && settings.readOnly {
            throw BlockError(.invalidArgument, "Can't use copy-on-read on read-only device")
        }
        let isTemporary = opening.isTemporary && !settings.readOnly
        if isTemporary { settings.readOnly = true }
        let node = try context.openUnnamed(name, settings)
        if isTemporary { return try openOverlay(over: node, opening.settings) }
        if !settings.readOnly && name.leavesFormatOpen { context.warnIfRaw(node, name.text) }
        debugger(of: node)?.onNotice { [terminal] line in terminal.print(line + "\n") }
        return node
    }

    /// Puts a throw-away layer for writes over `base`, which is closed when this throws.
    private func openOverlay(
        over base: BlockNode, _ settings: OpenSettings
    ) throws(BlockError) -> BlockNode {
        let path: String
        do throws(BlockError) { path = try HostPath.makeTemporary(prefix: "platter-io") } catch {
            try? base.close()
            throw error
        }
        return try context.opener.openTemporaryOverlay(
            over: base, at: path, format: Qcow2Driver.name, settings: settings,
            unlink: { HostPath.remove($0) })
    }

    /// Closes the image when all requests have ended; requests that are held are resumed first.
    func close() throws(BlockError) {
        guard let device else { return }
        if let node { debugger(of: node)?.resumeAll() }
        requests.waitForAll()
        printEndedReports()
        jobs.cancelAll()
        self.device = nil
        try device.close()
    }

    /// Ends the session and returns the exit status.
    func end() -> Int32 {
        do throws(BlockError) { try close() } catch {
            context.complain(error)
            hasFailed = true
        }
        return hasFailed || requests.hasFailed ? 1 : 0
    }

    /// Closes the image and opens it with other options, or with the old ones again where that fails.
    func reopen(_ change: (inout Opening) -> Void) throws(BlockError) {
        let before = opening
        guard !before.isTemporary else {
            throw BlockError(.unsupported, "A temporary snapshot cannot be reopened with other options")
        }
        var after = before
        change(&after)
        try close()
        do throws(BlockError) {
            device = Self.device(try openNode(after))
            opening = after
        } catch {
            device = Self.device(try openNode(before))
            throw error
        }
    }

    /// Records that the image is open in this mode now.
    func noteMode(readOnly: Bool) { opening.settings.readOnly = readOnly }

    /// The filter with breakpoints below a node, if there is one.
    func debugger(of node: BlockNode) -> DebugDriver? {
        var next: BlockNode? = node
        while let current = next {
            if let found = current.filter as? DebugDriver { return found }
            next = current.file
        }
        return nil
    }
}
