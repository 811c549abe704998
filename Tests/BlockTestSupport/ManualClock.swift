import BlockCore

/// A clock that only a test moves: with ``advance(by:)``, or by itself whenever somebody waits. Thread-safe.
public final class ManualClock: BlockClock {
    private struct State {
        var now = 0
        /// The waits that have not ended, by number, with what wakes them.
        var waits: [Int: @Sendable () -> Void] = [:]
        var deadlines: [Int: Int] = [:]
        var next = 0

        /// The time from now to the earliest later deadline.
        var nextStep: Int? { deadlines.values.filter { $0 > now && $0 < .max }.min().map { $0 - now } }
    }

    private let state = Monitor(State())
    private let movesByItself: Bool

    /// - Parameter movesByItself: whether a wait moves the clock to its deadline instead of waiting.
    public init(movesByItself: Bool = false) { self.movesByItself = movesByItself }

    public func now() -> Int { state.withLock { $0.now } }

    /// Moves the clock by that many nanoseconds and wakes who waits for it.
    public func advance(by nanoseconds: Int) {
        let wakes = state.withLock { state in
            state.now += nanoseconds
            return Array(state.waits.values)
        }
        for wake in wakes { wake() }
    }

    /// Moves the clock to the earliest deadline of all waits.
    public func advanceToNextDeadline() {
        let target = state.withLock { $0.deadlines.values.filter { $0 < Int.max }.min() }
        if let target { advance(by: max(0, target - now())) }
    }

    /// Blocks until a thread waits for a later time than now, and moves the clock to the earliest such time.
    public func advanceToLaterDeadline() {
        let step = state.wait(until: { $0.nextStep != nil }) { $0.nextStep ?? 0 }
        advance(by: step)
    }

    /// Blocks until `count` threads wait for the clock.
    public func waitForWaits(_ count: Int) { state.wait(until: { $0.waits.count >= count }) { _ in } }

    /// The deadlines of all waits, in nanoseconds, in ascending order.
    public var deadlines: [Int] { state.withLock { $0.deadlines.values.sorted() } }

    public func wait<Value: Sendable>(
        on monitor: Monitor<Value>, until deadline: Int, _ ready: (inout Value) -> Bool
    ) -> Bool {
        if movesByItself, deadline < Int.max { return jump(monitor, deadline, ready) }
        let number = begin(deadline) {
            // Under the lock, so that a thread about to wait does not miss the change.
            monitor.withLock { _ in }
            monitor.notifyAll()
        }
        defer { end(number) }
        var isReady = false
        monitor.wait(until: { value in
            isReady = ready(&value)
            return isReady || self.now() >= deadline
        }) { _ in }
        return isReady
    }

    private func jump<Value: Sendable>(
        _ monitor: Monitor<Value>, _ deadline: Int, _ ready: (inout Value) -> Bool
    ) -> Bool {
        let isReady = monitor.withLock { ready(&$0) }
        if !isReady { state.withLock { $0.now = max($0.now, deadline) } }
        return isReady
    }

    private func begin(_ deadline: Int, _ wake: @escaping @Sendable () -> Void) -> Int {
        let number = state.withLock { state in
            state.next += 1
            state.waits[state.next] = wake
            state.deadlines[state.next] = deadline
            return state.next
        }
        state.notifyAll()
        return number
    }

    private func end(_ number: Int) {
        state.withLock { state in
            state.waits[number] = nil
            state.deadlines[number] = nil
        }
    }
}
