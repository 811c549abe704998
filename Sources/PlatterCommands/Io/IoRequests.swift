import BlockCore

/// The requests that are under way while the shell takes further commands. Thread-safe.
///
/// A running request has a thread of its own. Of two requests that overlap, at least one of them a write, the
/// later one waits, without a thread, for the earlier one; all others run at the same time. They are reported
/// in the order in which they end.
final class IoRequests: Sendable {
    private struct Request: Sendable {
        var id: Int
        var range: Range<Int>
        var writes: Bool
        /// The number of earlier requests that it waits for.
        var blockers = 0
        var work: @Sendable () -> IoOutcome

        func conflicts(with other: Request) -> Bool {
            (writes || other.writes) && range.overlaps(other.range)
        }
    }

    private struct State {
        /// In ascending order of their numbers.
        var underWay: [Request] = []
        var ended: [[UInt8]] = []
        var hasFailed = false
        var nextID = 0
    }

    private let state = Monitor(State())

    /// Starts a request, which `work` makes on another thread, and returns its number.
    @discardableResult
    func start(_ range: Range<Int>, writes: Bool, _ work: @escaping @Sendable () -> IoOutcome) -> Int {
        let request = state.withLock { state in
            state.nextID += 1
            var request = Request(id: state.nextID, range: range, writes: writes, work: work)
            request.blockers = state.underWay.count { $0.conflicts(with: request) }
            state.underWay.append(request)
            return request
        }
        if request.blockers == 0 { run(request) }
        return request.id
    }

    private func run(_ request: Request) {
        let body: @Sendable () -> Void = { [self] in end(request, request.work()) }
        if !WorkerThreads.detach(body) { body() }
    }

    /// Removes a request that has ended, and starts the requests that waited for no other.
    private func end(_ request: Request, _ outcome: IoOutcome) {
        let free = state.withLock { state in
            state.ended.append(outcome.text)
            if outcome.hasFailed { state.hasFailed = true }
            state.underWay.removeAll { $0.id == request.id }
            var free: [Request] = []
            for index in state.underWay.indices where state.underWay[index].id > request.id {
                guard state.underWay[index].conflicts(with: request) else { continue }
                state.underWay[index].blockers -= 1
                if state.underWay[index].blockers == 0 { free.append(state.underWay[index]) }
            }
            return free
        }
        state.notifyAll()
        free.forEach(run)
    }

    /// The reports of requests that have ended since the last call.
    func takeReports() -> [UInt8] {
        state.withLock { state in
            defer { state.ended = [] }
            return state.ended.flatMap { $0 }
        }
    }

    /// Waits until no request is under way.
    func waitForAll() { state.wait(until: { $0.underWay.isEmpty }, then: { _ in }) }

    var isIdle: Bool { state.withLock { $0.underWay.isEmpty } }
    /// Whether a request failed in a way that counts for the exit status.
    var hasFailed: Bool { state.withLock { $0.hasFailed } }

    func isUnderWay(_ id: Int) -> Bool { state.withLock { $0.underWay.contains { $0.id == id } } }
}
