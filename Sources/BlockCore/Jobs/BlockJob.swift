/// Long work on block nodes: streaming, committing, mirroring, comparing.
public protocol BlockJob: Sendable {
    /// A short name for messages: `stream`, `commit`.
    static var name: String { get }
    /// Does the work on the calling thread (and helpers), reporting to and obeying `control`.
    ///
    /// - Throws: `cancelled` when the control said so; whatever the nodes throw.
    func run(_ control: JobControl) throws(BlockError)
}

/// The handle on a running job: speed, pause, cancel, progress. Thread-safe.
public final class JobControl: Sendable {
    /// How far a job is. Units are bytes.
    public struct Progress: Sendable, Equatable {
        public var done = 0
        public var total = 0
        /// From 0 to 1; a job with nothing to do is at 1.
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

    public var progress: Progress { state.withLock { $0.progress } }
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

    /// Holds the job at its next step.
    public func pause() { state.withLock { $0.isPaused = true } }

    /// Lets a paused job go on.
    public func resume() {
        state.withLock { $0.isPaused = false }
        state.notifyAll()
    }

    /// Called by the job: how much there is to do, in bytes.
    public func setTotal(_ total: Int) {
        let progress = state.withLock { state in
            state.progress.total = total
            return state.progress
        }
        onProgress(progress)
    }

    /// Called by the job: `bytes` more are done.
    public func advance(by bytes: Int) {
        let progress = state.withLock { state in
            state.progress.done += bytes
            return state.progress
        }
        onProgress(progress)
    }

    /// Called by the job before it moves `bytes`: waits for the speed limit and while paused.
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

    /// Waits in short steps, so that a job that was slowed down can still be cancelled.
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

/// The real clock, for those who inject none.
public enum MonotonicClock {
    private static let origin = ContinuousClock.now

    /// Nanoseconds since some moment early in this process.
    @Sendable public static func nanoseconds() -> Int {
        let passed = (ContinuousClock.now - origin).components
        return Int(passed.seconds) * 1_000_000_000 + Int(passed.attoseconds / 1_000_000_000)
    }
}
