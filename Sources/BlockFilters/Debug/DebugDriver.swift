import BlockCore
import Synchronization

/// Suspends requests at events of the driver above, and makes requests fail by rules: QEMU's `blkdebug`.
///
/// A breakpoint suspends the first request that reaches its event, on the request's own thread and with the
/// locks that it holds, until it is resumed. Thread-safe. Copies between files are done by `read` and
/// `write`.
public final class DebugDriver: OpenableFilter, MetadataEventListener {
    public static let name = "blkdebug"
    public static let childRole = "image"
    public static let schemes = [name]

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

    public let child: BlockNode
    let limits: DebugLimits
    /// Whether flushes do nothing, and so cannot fail.
    let ignoresFlush: Bool
    private let state: Monitor<State>
    private let notice = Mutex<@Sendable (String) -> Void>({ _ in })

    /// A driver with breakpoints only.
    public convenience init(over child: BlockNode) {
        self.init(over: child, DebugRules(), DebugLimits(), ignoresFlush: false)
    }

    init(over child: BlockNode, _ rules: DebugRules, _ limits: DebugLimits, ignoresFlush: Bool) {
        self.ignoresFlush = ignoresFlush
        self.child = child
        self.limits = limits
        var rules = rules
        rules.hear(.none)
        state = Monitor(State(rules: rules))
    }

    // MARK: Breakpoints

    /// Sets the receiver of notices about requests, such as "Suspended request 'TAG'".
    ///
    /// Called on any thread.
    public func onNotice(_ body: @escaping @Sendable (String) -> Void) { notice.withLock { $0 = body } }

    /// Suspends the next request that reaches `event`, under the name `tag`.
    public func setBreakpoint(at event: MetadataEvent, tag: String) {
        state.withLock { $0.breakpoints.append(Breakpoint(event: event, tag: tag)) }
    }

    /// Removes the breakpoints of that tag, and resumes the requests suspended there.
    ///
    /// `false` when there is neither.
    public func removeBreakpoint(tag: String) -> Bool {
        let (found, held) = state.withLock { state in
            let before = state.breakpoints.count
            state.breakpoints.removeAll { $0.tag == tag }
            let held = state.held.count { $0.tag == tag }
            state.held.removeAll { $0.tag == tag }
            return (state.breakpoints.count < before || held > 0, held)
        }
        if held > 0 { report("Resuming request '\(tag)'") }
        state.notifyAll()
        return found
    }

    /// Resumes the first request that is suspended under that tag.
    ///
    /// `false` when there is none.
    public func resume(tag: String) -> Bool {
        let found = state.withLock { state in
            guard let index = state.held.firstIndex(where: { $0.tag == tag }) else { return false }
            state.held.remove(at: index)
            return true
        }
        if found { report("Resuming request '\(tag)'") }
        state.notifyAll()
        return found
    }

    /// Removes all breakpoints and resumes all requests, so that the image can be closed.
    public func resumeAll() {
        state.withLock { state in
            state.breakpoints = []
            state.held = []
        }
        state.notifyAll()
    }

    /// Whether a request is suspended under that tag.
    public func isSuspended(tag: String) -> Bool {
        state.withLock { state in state.held.contains { $0.tag == tag } }
    }

    /// The number of suspended requests.
    public var suspendedRequests: Int { state.withLock { $0.held.count } }

    /// The errno with which a request fails by the rules; `nil` when it passes.
    func fault(of request: DebugRules.Request, _ range: Range<Int>?) -> Int32? {
        state.withLock { $0.rules.fault(of: request, range) }
    }

    private func report(_ text: String) { notice.withLock { $0 }("blkdebug: " + text) }

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
        report("Suspended request '\(held.tag)'")
        state.withLock { $0.held.append(held) }
        state.notifyAll()
        state.wait(until: { state in !state.held.contains { $0.id == held.id } }, then: { _ in })
    }
}
