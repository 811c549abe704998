/// Calls a function repeatedly, on a thread of its own, with the same pause before each call.
///
/// Thread-safe. Freeing the timer stops it.
public final class RepeatingTimer: Sendable {
    private struct State {
        /// Whether no further call begins.
        var isOver = false
        /// Whether the next call begins at once, without the rest of the pause.
        var isHurried = false
        /// The number of ended calls.
        var calls = 0
    }

    /// The thread refers to this and not to the timer, so that the timer can be freed.
    private let state: Monitor<State>
    /// The pause before each call, in nanoseconds.
    public let pauseNanoseconds: Int

    /// Starts the timer.
    ///
    /// If the system cannot start a thread, there are no calls.
    ///
    /// - Parameters:
    ///   - everyNanoseconds: the pause before each call, in nanoseconds.
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

    /// Waits for the end of the pause or for ``callNow()``; `false` once the timer is stopped.
    private static func mayCall(_ state: Monitor<State>, afterNanoseconds pause: Int) -> Bool {
        _ = state.wait(forNanoseconds: pause, until: { $0.isOver || $0.isHurried })
        return state.withLock { state in
            state.isHurried = false
            return !state.isOver
        }
    }

    /// Makes the timer's thread begin the next call at once, and waits until it has ended.
    ///
    /// Does nothing once the timer is stopped. Must not be called by the body.
    public func callNow() {
        let before = state.withLock { state in
            state.isHurried = true
            return state.calls
        }
        state.notifyAll()
        state.wait(until: { $0.calls > before || $0.isOver }) { _ in }
    }

    /// Stops the timer: no further call begins; one under way continues.
    public func stop() {
        state.withLock { $0.isOver = true }
        state.notifyAll()
    }

    deinit { stop() }
}
