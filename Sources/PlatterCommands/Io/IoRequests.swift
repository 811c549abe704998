import BlockCore

/// Requests that are under way while the shell takes further commands. Thread-safe.
///
/// Each has a thread of its own. Of two that overlap, one of them a write, the one that was given later
/// waits for the earlier; all others run at the same time, and are told of in the order of their ends.
final class IoRequests: Sendable {
    private struct Request {
        var id: Int
        var range: Range<Int>
        var writes: Bool
    }

    private struct State {
        var underWay: [Request] = []
        var ended: [[UInt8]] = []
        var nextID = 0
    }

    private let state = Monitor(State())

    /// Starts a request. `body` makes it on another thread and answers what to tell of it.
    func start(_ range: Range<Int>, writes: Bool, _ body: @escaping @Sendable () -> [UInt8]) {
        let (id, blockers) = state.withLock { state in
            let blockers = state.underWay.filter { ($0.writes || writes) && $0.range.overlaps(range) }
            state.nextID += 1
            state.underWay.append(Request(id: state.nextID, range: range, writes: writes))
            return (state.nextID, Set(blockers.map(\.id)))
        }
        let work: @Sendable () -> Void = { [state] in
            state.wait(
                until: { state in !state.underWay.contains { blockers.contains($0.id) } }, then: { _ in })
            let text = body()
            state.withLock { state in
                state.underWay.removeAll { $0.id == id }
                state.ended.append(text)
            }
            state.notifyAll()
        }
        if !WorkerThreads.detach(work) { work() }
    }

    /// What ended requests have to tell, once.
    func takeReports() -> [UInt8] {
        state.withLock { state in
            defer { state.ended = [] }
            return state.ended.flatMap { $0 }
        }
    }

    /// Waits until no request is under way.
    func waitForAll() { state.wait(until: { $0.underWay.isEmpty }, then: { _ in }) }

    var isIdle: Bool { state.withLock { $0.underWay.isEmpty } }
}
