import BlockCore
import BlockFilters
import BlockFormats
import BlockProtocols

/// A session: an open image or none, requests under way, and whether anything failed.
///
/// Used on one thread; what ``requests`` run, they hand over.
final class IoShell {
    /// How an image is opened.
    struct Opening {
        var name: ImageName?
        var settings = OpenSettings(readOnly: false)
        /// Writes go to a temporary file.
        var isTemporary = false
    }

    let context: CommandContext
    let requests = IoRequests()
    private(set) var node: BlockNode?
    /// How ``node`` was opened.
    private(set) var opening = Opening()
    /// Buffers start at odd places.
    var misaligns = false
    /// A command failed.
    private(set) var hasFailed = false
    /// No more commands are wanted.
    var isDone = false

    /// What is written where nothing else is said.
    static let usualPattern: UInt8 = 0xCD

    init(_ context: CommandContext) { self.context = context }

    var terminal: Terminal { context.terminal }

    // MARK: Saying things

    func tell(_ line: String) { terminal.print(line + "\n") }

    /// A line on standard error without the program's name.
    func complainPlainly(_ line: String) { terminal.error(line) }

    /// Prints what requests have to tell that ended meanwhile.
    func tellEnded() { terminal.print(requests.takeReports()) }

    /// How long a command may take while a request is held before further commands are taken.
    private static let patienceNanoseconds = 250_000_000
    private static let pauseNanoseconds = 500_000

    func requestsAreHeld(in node: BlockNode) -> Bool { debugger(of: node)?.suspendedRequests ?? 0 > 0 }

    /// Makes a request and tells of it. One that has to wait for a request that is held goes on beside the
    /// commands that follow, so that one of them can let that go on.
    func perform(_ node: BlockNode, _ work: @escaping @Sendable () -> IoOutcome) throws(IoFailure) {
        guard requestsAreHeld(in: node) else {
            let outcome = work()
            tellEnded()
            terminal.print(outcome.text)
            if outcome.hasFailed { throw .silent }
            return
        }
        let id = requests.start(0..<0, writes: false, work)
        let began = MonotonicClock.nanoseconds()
        while requests.isUnderWay(id) {
            let isPatient = MonotonicClock.nanoseconds() - began < Self.patienceNanoseconds
            guard isPatient || !requestsAreHeld(in: node) else { break }
            WorkerThreads.sleep(nanoseconds: Self.pauseNanoseconds)
        }
        tellEnded()
    }

    // MARK: Commands

    /// Runs a line. What goes wrong is told, and remembered for the exit status.
    func run(_ line: String) {
        let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).map(String.init)
        guard let word = words.first else { return }
        guard let verb = IoCatalog.verb(named: word) else {
            complainPlainly("command \"\(word)\" not found")
            if let hint = NearestName.hint(word, among: IoCatalog.all.map(\.name)), !context.isCalledAsQemu {
                complainPlainly(hint)
            }
            hasFailed = true
            return
        }
        let call = IoCall(verb: verb, word: word, arguments: Array(words.dropFirst()))
        do { try run(call) } catch {
            hasFailed = true
            tell(of: error, verb)
        }
    }

    private func run(_ call: IoCall) throws {
        if case .image = call.verb.work, node == nil {
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
            if call.verb.writes && node.isReadOnly {
                throw IoFailure.complaint("Block node is read-only", hint: nil)
            }
            try work(self, node, call)
        }
    }

    private func tell(of error: any Error, _ verb: IoVerb) {
        switch error {
        case IoFailure.usage: tell(verb.usage)
        case IoFailure.told(let line): tell(line)
        case IoFailure.complaint(let message, let hint): context.complain(message, hint: hint)
        case IoFailure.silent: break
        case let error as BlockError: context.complain(error)
        default: context.complain("\(error)")
        }
    }

    // MARK: The image

    /// Opens an image.
    ///
    /// - Throws: `can't open device NAME: reason`.
    func open(_ opening: Opening) throws(BlockError) {
        do throws(BlockError) {
            node = try openNode(opening)
            self.opening = opening
        } catch {
            let name = opening.name.map { $0.isOptions || $0.text.isEmpty ? "" : " device \($0.text)" } ?? ""
            throw error.prefixed("can't open\(name)")
        }
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

    /// A throw-away layer for writes over `base`, which is closed when this throws.
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

    /// Closes the image, after all requests; those that are held go on.
    func close() throws(BlockError) {
        guard let node else { return }
        debugger(of: node)?.resumeAll()
        requests.waitForAll()
        tellEnded()
        self.node = nil
        try node.close()
    }

    /// Ends the session and answers the exit status.
    func end() -> Int32 {
        do throws(BlockError) { try close() } catch {
            context.complain(error)
            hasFailed = true
        }
        return hasFailed || requests.hasFailed ? 1 : 0
    }

    /// Closes the image and opens it in another way; in the old one where that fails.
    func reopen(_ change: (inout Opening) -> Void) throws(BlockError) {
        let before = opening
        guard !before.isTemporary else {
            throw BlockError(.unsupported, "A temporary snapshot cannot be reopened with other options")
        }
        var after = before
        change(&after)
        try close()
        do throws(BlockError) {
            node = try openNode(after)
            opening = after
        } catch {
            node = try openNode(before)
            throw error
        }
    }

    /// The image is in another mode now.
    func noteMode(readOnly: Bool) { opening.settings.readOnly = readOnly }

    /// The filter with breakpoints under a node.
    func debugger(of node: BlockNode) -> DebugDriver? {
        var next: BlockNode? = node
        while let current = next {
            if let found = current.filter as? DebugDriver { return found }
            next = current.file
        }
        return nil
    }
}
