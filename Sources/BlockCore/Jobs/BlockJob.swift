/// Long work on block nodes: streaming, committing, mirroring, comparing.
public protocol BlockJob: Sendable {
    /// A short name for messages: `stream`, `commit`.
    static var name: String { get }
    /// Does the work on the calling thread and on helper threads, under `control`.
    ///
    /// - Throws: `cancelled` when `control` cancels it; errors of the nodes.
    func run(_ control: JobControl) throws(BlockError)
}

/// The handle on a running job: speed, pause, cancel, progress.
///
/// Thread-safe.
public final class JobControl: Sendable {
    /// The progress of a job, in bytes.
    public struct Progress: Sendable, Equatable {
        /// The work done, in bytes.
        public var done = 0
        /// All work known so far, in bytes.
        public var total = 0
        /// The share done, from 0 to 1; 1 for a job without work.
        public var fraction: Double { total > 0 ? min(1, Double(done) / Double(total)) : 1 }
    }

    private struct State {
        var progress = Progress()
        var throttle: Throttle
        var isPaused = false
        var isCancelled = false
    }

    private let state: Monitor<State>
    private let now: @Sendable () -> Int
    private let sleep: @Sendable (Int) -> Void
    private let onProgress: @Sendable (Progress) -> Void

    /// - Parameters:
    ///   - bytesPerSecond: the speed limit; 0 for none.
    ///   - now: a monotonic clock in nanoseconds.
    ///   - sleep: waits that many nanoseconds.
    ///   - onProgress: called on a working thread after each step; must be quick.
    public init(
        bytesPerSecond: Int = 0, now: @escaping @Sendable () -> Int = MonotonicClock.nanoseconds,
        sleep: @escaping @Sendable (Int) -> Void = WorkerThreads.sleep(nanoseconds:),
        onProgress: @escaping @Sendable (Progress) -> Void = { _ in }
    ) {
        state = Monitor(State(throttle: Throttle(unitsPerSecond: bytesPerSecond)))
        self.now = now
        self.sleep = sleep
        self.onProgress = onProgress
    }

    /// The present progress.
    public var progress: Progress { state.withLock { $0.progress } }
    /// Whether the job was told to stop.
    public var isCancelled: Bool { state.withLock { $0.isCancelled } }

    /// Changes the speed limit in bytes a second; 0 for none.
    public func setSpeed(_ bytesPerSecond: Int) {
        state.withLock { $0.throttle = Throttle(unitsPerSecond: bytesPerSecond) }
    }

    /// Whether there is a speed limit now.
    public var hasSpeedLimit: Bool { state.withLock { $0.throttle.unitsPerSecond > 0 } }

    /// Makes the job stop at its next step with kind `cancelled`.
    public func cancel() {
        state.withLock { $0.isCancelled = true }
        state.notifyAll()
    }

    /// Pauses the job at its next step.
    public func pause() { state.withLock { $0.isPaused = true } }

    /// Resumes a paused job.
    public func resume() {
        state.withLock { $0.isPaused = false }
        state.notifyAll()
    }

    /// Sets the total work, in bytes.
    ///
    /// Called by the job.
    public func setTotal(_ total: Int) {
        let progress = state.withLock { state in
            state.progress.total = total
            return state.progress
        }
        onProgress(progress)
    }

    /// Adds `bytes` to the work done.
    ///
    /// Called by the job.
    public func advance(by bytes: Int) {
        let progress = state.withLock { state in
            state.progress.done += bytes
            return state.progress
        }
        onProgress(progress)
    }

    /// Waits for the speed limit, and while the job is paused.
    ///
    /// Called by the job before it moves `bytes`.
    ///
    /// - Throws: `cancelled`.
    public func checkpoint(moving bytes: Int) throws(BlockError) {
        let wait = try state.wait(until: { !$0.isPaused || $0.isCancelled }) {
            state throws(BlockError) -> Int in
            if state.isCancelled { throw BlockError(.cancelled, "The job was cancelled") }
            return state.throttle.account(bytes, at: now())
        }
        try hold(nanoseconds: wait)
    }

    /// Waits in steps of at most 0.1 s, so that a slow job can still be cancelled.
    private func hold(nanoseconds: Int) throws(BlockError) {
        var left = nanoseconds
        while left > 0 {
            let step = min(left, 100_000_000)
            sleep(step)
            left -= step
            if isCancelled { throw BlockError(.cancelled, "The job was cancelled") }
        }
    }
}

/// The system's monotonic clock.
public enum MonotonicClock {
    private static let origin = ContinuousClock.now

    /// The nanoseconds since a moment early in this process.
    @Sendable public static func nanoseconds() -> Int {
        let passed = (ContinuousClock.now - origin).components
        return Int(passed.seconds) * 1_000_000_000 + Int(passed.attoseconds / 1_000_000_000)
    }
}
