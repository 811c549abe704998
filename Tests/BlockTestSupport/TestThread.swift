import BlockCore

/// A thread of a test, for whose end others can wait. Thread-safe.
public final class TestThread: Sendable {
    private let ended = Monitor(false)

    /// Starts at once.
    ///
    /// - Parameter atEnd: called after `body`, before anybody is told that the thread has ended.
    public init(
        atEnd: @escaping @Sendable () -> Void = {}, _ body: @escaping @Sendable () throws -> Void
    ) {
        let ended = ended
        WorkerThreads.detach {
            try? body()
            atEnd()
            ended.withLock { $0 = true }
            ended.notifyAll()
        }
    }

    public var isEnded: Bool { ended.withLock { $0 } }
    public func wait() { ended.wait(until: { $0 }) { _ in } }

    /// Waits for the end, but no longer than that. For threads that should not end yet: one that does is seen
    /// at once.
    ///
    /// - Returns: whether it has ended.
    @discardableResult public func wait(milliseconds: Int) -> Bool {
        ended.wait(forNanoseconds: milliseconds * 1_000_000, until: { $0 })
    }
}
