import BlockCore
import Synchronization
import SystemPackage

/// Stops requests at steps of the driver above, and makes requests fail by rules: QEMU's `blkdebug`.
///
/// A breakpoint holds the first request that meets its event, on the request's own thread, with the locks
/// that it has there, until it is resumed. Thread-safe. Copying between drivers goes through `read` and
/// `write`.
public final class DebugDriver: FilterDriver, MetadataEventListener {
    public static let name = "blkdebug"

    private struct Breakpoint {
        var event: MetadataEvent
        var tag: String
    }

    private struct Held {
        var id: Int
        var tag: String
    }

    private struct State {
        var rules = DebugRules()
        var breakpoints: [Breakpoint] = []
        var held: [Held] = []
        var nextID = 0
    }

    public let below: any ProtocolDriver
    let limits: DebugLimits
    /// Whether flushes do nothing, and so cannot fail.
    let ignoresFlush: Bool
    private let state: Monitor<State>
    private let notice = Mutex<@Sendable (String) -> Void>({ _ in })

    /// A driver with breakpoints only.
    public convenience init(over below: any ProtocolDriver) {
        self.init(over: below, DebugRules(), DebugLimits(), ignoresFlush: false)
    }

    init(
        over below: any ProtocolDriver, _ rules: DebugRules, _ limits: DebugLimits, ignoresFlush: Bool
    ) {
        self.ignoresFlush = ignoresFlush
        self.below = below
        self.limits = limits
        var rules = rules
        rules.hear(.none)
        state = Monitor(State(rules: rules))
    }

    /// `blkdebug:CONFIG:FILE`, or `driver=blkdebug,image.filename=…` with `config`, `inject-error.N.…`,
    /// `set-state.N.…`, the limits (``DebugLimits``), and `take-child-perms.N` and `unshare-child-perms.N`.
    public static let entry = ProtocolEntry(
        name: name, schemes: [name], needsFilename: false,
        open: { (filename, options, settings) throws(BlockError) -> any ProtocolDriver in
            try open(filename, &options, settings)
        }, confines: true, naming: { (filename, options) in naming(filename, options) })

    private static func open(
        _ filename: String, _ options: inout OptionTree, _ settings: OpenSettings
    ) throws(BlockError) -> DebugDriver {
        var rules = DebugRules()
        var image = ""
        let filename = FilterOpening.name(filename, for: name)
        if filename.hasPrefix("\(name):") {
            let rest = filename.dropFirst(name.count + 1)
            guard let colon = rest.utf8.firstIndex(of: UInt8(ascii: ":")) else {
                throw BlockError(
                    .invalidArgument, "blkdebug requires both config file and image path", path: filename)
            }
            if colon > rest.startIndex { options["config"] = String(rest[..<colon]) }
            image = String(rest[rest.utf8.index(after: colon)...])
        } else if !filename.isEmpty {
            image = filename
        }
        let config = try options.take("config").map(text)
        try rules.take(config: config, &options)
        var settings = settings
        settings.claims = try permissions("take-child-perms", &options)
        settings.forbids = try permissions("unshare-child-perms", &options)
        if settings.readOnly, !settings.claims.isDisjoint(with: [.write, .resize]) {
            throw BlockError(.readOnly, "Block node is read-only")
        }
        let below = try FilterOpening.below("image", filename: image, &options, settings)
        do throws(BlockError) {
            return DebugDriver(
                over: below, rules, try DebugLimits(&options, over: below),
                ignoresFlush: settings.cache == .unsafe)
        } catch {
            below.close()
            throw error
        }
    }

    private static func permissions(
        _ key: String, _ options: inout OptionTree
    ) throws(BlockError) -> UsePermissions {
        let list = options.takeSubtree(key)
        var permissions: UsePermissions = []
        for index in list.keys.indices {
            guard let name = list[String(index)] else {
                let largest = list.keys.compactMap { Int($0) }.max() ?? 0
                throw BlockError(
                    .invalidArgument,
                    "List indices are not contiguous, saw \(list.keys.count) elements but \(largest) "
                        + "largest index")
            }
            guard let permission = UsePermissions(name: name) else {
                throw BlockError(.invalidArgument, "Parameter '\(key)' does not accept value '\(name)'")
            }
            permissions.formUnion(permission)
        }
        return permissions
    }

    /// How long a file of rules may be, in bytes.
    private static let maximumConfigBytes = 1 << 20

    @Sendable private static func text(of path: String) throws(BlockError) -> String {
        let file: HostFile
        do throws(BlockError) {
            file = try HostFile.open(path, FileOpenOptions(OpenSettings(forceShare: true)))
        } catch {
            guard let code = error.errno else { throw error }
            throw BlockError.system(Errno(rawValue: code), path: path)
                .prefixed("Could not read blkdebug config file")
        }
        defer { file.close() }
        var bytes = [UInt8](
            repeating: 0, count: min(file.knownLength.load(ordering: .relaxed), maximumConfigBytes))
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        try file.read(into: &span, at: 0)
        return String(decoding: bytes, as: UTF8.self)
    }

    // MARK: Breakpoints

    /// Gets told what happens to requests: "Suspended request 'TAG'". Called on any thread.
    public func onNotice(_ body: @escaping @Sendable (String) -> Void) { notice.withLock { $0 = body } }

    /// Holds the next request that meets `event` under the name `tag`.
    public func setBreakpoint(at event: MetadataEvent, tag: String) {
        state.withLock { $0.breakpoints.append(Breakpoint(event: event, tag: tag)) }
    }

    /// Removes the breakpoints of that tag, and lets go who is held there. `false` when there is neither.
    public func removeBreakpoint(tag: String) -> Bool {
        let (found, held) = state.withLock { state in
            let before = state.breakpoints.count
            state.breakpoints.removeAll { $0.tag == tag }
            let held = state.held.count { $0.tag == tag }
            state.held.removeAll { $0.tag == tag }
            return (state.breakpoints.count < before || held > 0, held)
        }
        if held > 0 { tell("Resuming request '\(tag)'") }
        state.notifyAll()
        return found
    }

    /// Lets the first request that is held under that tag go on. `false` when there is none.
    public func resume(tag: String) -> Bool {
        let found = state.withLock { state in
            guard let index = state.held.firstIndex(where: { $0.tag == tag }) else { return false }
            state.held.remove(at: index)
            return true
        }
        if found { tell("Resuming request '\(tag)'") }
        state.notifyAll()
        return found
    }

    /// Drops all breakpoints and lets every request go on, so that the image can be closed.
    public func resumeAll() {
        state.withLock { state in
            state.breakpoints = []
            state.held = []
        }
        state.notifyAll()
    }

    /// Whether a request is held under that tag.
    public func isSuspended(tag: String) -> Bool {
        state.withLock { state in state.held.contains { $0.tag == tag } }
    }

    /// How many requests are held.
    public var suspendedRequests: Int { state.withLock { $0.held.count } }

    /// The errno with which a request has to fail now.
    func fault(of request: DebugRules.Request, _ range: Range<Int>?) -> Int32? {
        state.withLock { $0.rules.fault(of: request, range) }
    }

    private func tell(_ text: String) { notice.withLock { $0 }("blkdebug: " + text) }

    public func hear(_ event: MetadataEvent) {
        let held = state.withLock { state -> Held? in
            state.rules.hear(event)
            guard let index = state.breakpoints.firstIndex(where: { $0.event == event }) else { return nil }
            let breakpoint = state.breakpoints.remove(at: index)
            state.nextID += 1
            let held = Held(id: state.nextID, tag: breakpoint.tag)
            return held
        }
        guard let held else { return }
        tell("Suspended request '\(held.tag)'")
        state.withLock { $0.held.append(held) }
        state.notifyAll()
        state.wait(until: { state in !state.held.contains { $0.id == held.id } }, then: { _ in })
    }
}
