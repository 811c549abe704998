/// Calls something again and again, on a thread of its own, with the same pause before each call.
///
/// Thread-safe. It stops when it is let go.
public final class RepeatingTimer: Sendable {
    /// Whether it was stopped. The thread keeps this alone, so that the timer can be let go.
    private let stopped: Monitor<Bool>

    /// Starts at once. A system that has no thread to give makes no call.
    ///
    /// - Parameters:
    ///   - everyNanoseconds: the pause.
    ///   - body: called on the timer's thread; after `false` it is not called again.
    public init(everyNanoseconds pause: Int, _ body: @escaping @Sendable () -> Bool) {
        let stopped = Monitor(false)
        self.stopped = stopped
        WorkerThreads.detach {
            while !stopped.wait(forNanoseconds: pause, until: { $0 }) {
                if !body() { return }
            }
        }
    }

    /// No call begins from now on; one that is under way goes on.
    public func stop() {
        stopped.withLock { $0 = true }
        stopped.notifyAll()
    }

    deinit { stop() }
}
