/// Calls something again and again, on a thread of its own, with the same pause before each call.
///
/// Thread-safe. It stops when it is let go.
public final class RepeatingTimer: Sendable {
    private struct State {
        /// No call begins any more.
        var isOver = false
        /// The next call does not wait for the end of the pause.
        var isHurried = false
        /// How many calls have ended.
        var calls = 0
    }

    /// The thread keeps this alone, so that the timer can be let go.
    private let state: Monitor<State>
    /// The pause before each call.
    public let pauseNanoseconds: Int

    /// Starts at once. A system that has no thread to give makes no call.
    ///
    /// - Parameters:
    ///   - everyNanoseconds: the pause.
    ///   - body: called on the timer's thread; after `false` it is not called again.
    public init(everyNanoseconds pause: Int, _ body: @escaping @Sendable () -> Bool) {
        let state = Monitor(State())
        self.state = state
        pauseNanoseconds = pause
        let hasThread = WorkerThreads.detach {
            while Self.mayCall(state, afterNanoseconds: pause) {
                let goesOn = body()
                state.withLock { state in
                    state.calls += 1
                    if !goesOn { state.isOver = true }
                }
                state.notifyAll()
            }
        }
        if !hasThread { stop() }
    }

    /// Waits for the pause's end, or for whoever cannot wait for it; `false` once the calls are over.
    private static func mayCall(_ state: Monitor<State>, afterNanoseconds pause: Int) -> Bool {
        _ = state.wait(forNanoseconds: pause, until: { $0.isOver || $0.isHurried })
        return state.withLock { state in
            state.isHurried = false
            return !state.isOver
        }
    }

    /// Has the timer's thread make the next call at once, and waits until it has ended. Does nothing once the
    /// calls are over. Must not be called by the body.
    public func callNow() {
        let before = state.withLock { state in
            state.isHurried = true
            return state.calls
        }
        state.notifyAll()
        state.wait(until: { $0.calls > before || $0.isOver }) { _ in }
    }

    /// No call begins from now on; one that is under way goes on.
    public func stop() {
        state.withLock { $0.isOver = true }
        state.notifyAll()
    }

    deinit { stop() }
}
