/// The handle on a job's progress, speed and pauses: its caller steers with it, and the job asks it at each
/// step.
///
/// Thread-safe.
public final class JobControl: Sendable {
    /// The progress of a job, in bytes.
    public struct Progress: Sendable, Equatable {
        /// The work done.
        public var done = 0
        /// All work known so far.
        public var total = 0
        /// The share done, from 0 to 1; 1 for a job without work.
        public var fraction: Double { total > 0 ? min(1, Double(done) / Double(total)) : 1 }
    }

    /// What a job does at a moment.
    public enum Status: String, Sendable {
        /// It has not begun.
        case created
        case running
        case paused
        /// All is copied; it follows the guest's writes until it is told to complete.
        case ready
        /// Ready, and paused.
        case standby
        /// It is ending, after success, failure or cancellation.
        case concluded
    }

    struct State {
        var progress = Progress()
        var pace: JobPace
        /// Counts changes of the speed: a wait that began before the last one asks again.
        var speedChanges = 0
        var pauses = 0
        var isCancelled = false
        var isReady = false
        var mustComplete = false
        var hasBegun = false
        var hasEnded = false
        /// The threads of the job that are waiting.
        var resting = 0
        /// Set by ``JobControl/wake()``.
        var hasNews = false
        var observers: [@Sendable (JobControl) -> Void] = []
    }

    let state: Monitor<State>
    private let onProgress: (@Sendable (Progress) -> Void)?
    /// The clock of the speed limit and of ``sleep(nanoseconds:)``.
    public let clock: any BlockClock
    /// The most threads that a job may copy with.
    public let maximumWorkers: Int

    /// - Parameters:
    ///   - bytesPerSecond: the speed limit; 0 for none.
    ///   - maximumWorkers: the most threads that a job may copy with. With one, the order of its writes
    ///     depends on nothing but the images.
    ///   - onProgress: called on a working thread after each step; must be quick.
    public init(
        bytesPerSecond: Int = 0, clock: any BlockClock = SystemClock(), maximumWorkers: Int = .max,
        onProgress: (@Sendable (Progress) -> Void)? = nil
    ) {
        self.maximumWorkers = max(1, maximumWorkers)
        state = Monitor(State(pace: JobPace(bytesPerSecond: bytesPerSecond)))
        self.clock = clock
        self.onProgress = onProgress
    }

    // MARK: For the caller

    /// The present progress.
    public var progress: Progress { state.withLock { $0.progress } }
    /// Whether a caller has cancelled it.
    public var isCancelled: Bool { state.withLock { $0.isCancelled } }
    /// Whether a caller has paused it.
    public var isPaused: Bool { state.withLock { $0.pauses > 0 } }
    /// Whether everything is copied and the job only follows the guest's writes.
    public var isReady: Bool { state.withLock { $0.isReady } }
    /// Whether the job is at work, and neither waits nor sleeps.
    public var isBusy: Bool { state.withLock { $0.hasBegun && !$0.hasEnded && $0.resting == 0 } }
    /// The speed limit in bytes a second; 0 for none.
    public var speed: Int { state.withLock { $0.pace.bytesPerSecond } }
    /// Whether there is a speed limit now.
    public var hasSpeedLimit: Bool { speed > 0 }
    /// What the job does at the moment.
    public var status: Status {
        state.withLock { state in
            if state.hasEnded { return .concluded }
            guard state.hasBegun else { return .created }
            if state.pauses > 0 { return state.isReady ? .standby : .paused }
            return state.isReady ? .ready : .running
        }
    }

    /// Calls `body` after each step and each change of the status, on the thread that made it; must be quick.
    public func observe(_ body: @escaping @Sendable (JobControl) -> Void) {
        state.withLock { $0.observers.append(body) }
    }

    /// Changes the speed limit in bytes a second; 0 for none.
    ///
    /// Waits under way are reckoned anew.
    public func setSpeed(_ bytesPerSecond: Int) {
        let now = clock.now()
        change { state in
            state.pace.setSpeed(bytesPerSecond, at: now)
            state.speedChanges += 1
        }
    }

    /// Makes the job stop at its next step with kind `cancelled`; ends its waits.
    public func cancel() {
        // An observer may cancel at each call.
        if !isCancelled { change { $0.isCancelled = true } }
    }

    /// Pauses the job at its next step.
    ///
    /// Pauses add up: each needs a ``resume()``.
    public func pause() { change { $0.pauses += 1 } }

    /// Takes one ``pause()`` back.
    public func resume() { change { $0.pauses = max(0, $0.pauses - 1) } }

    /// Asks a job that follows the guest's writes to end.
    public func requestCompletion() { change { $0.mustComplete = true } }

    // MARK: For the job

    /// Sets the total work, in bytes.
    public func setTotal(_ total: Int) { progress { $0.total = total } }

    /// Adds `bytes` to the work done.
    public func advance(by bytes: Int) { progress { $0.done += bytes } }

    /// Adds `bytes` to the work done, and corrects the total by what is left, in bytes.
    public func advance(by bytes: Int, remaining: Int) {
        progress { progress in
            progress.done += bytes
            progress.total = progress.done + remaining
        }
    }

    /// Throws when the job was cancelled, without waiting.
    ///
    /// - Throws: `cancelled`.
    public func checkCancelled() throws(BlockError) {
        if isCancelled { throw BlockError(.cancelled, "The job was cancelled") }
    }

    /// States that all is copied.
    public func becomeReady() { change { $0.isReady = true } }

    /// Whether the job was asked to complete.
    public var mustComplete: Bool { state.withLock { $0.mustComplete } }

    /// The bytes that one step should move at most under the speed limit; `nil` without one.
    public var stepBytes: Int? { state.withLock { $0.pace.stepBytes } }

    /// Waits for the speed limit, and while the job is paused.
    ///
    /// Called before the job moves `bytes`.
    ///
    /// - Throws: `cancelled`.
    public func checkpoint(moving bytes: Int) throws(BlockError) {
        var isDue = false
        while !isDue {
            try waitWhilePaused()
            let now = clock.now()
            let (start, changes) = state.withLock { ($0.pace.reserve(bytes, at: now), $0.speedChanges) }
            isDue = start <= now
            if isDue { break }
            isDue = try !rest(until: start) { $0.speedChanges != changes }
            if !isDue { state.withLock { $0.pace.giveBack(bytes) } }
        }
        try waitWhilePaused()
    }

    /// Sleeps; cancelling ends the sleep.
    ///
    /// - Throws: `cancelled`.
    public func sleep(nanoseconds: Int) throws(BlockError) {
        let (end, overflow) = clock.now().addingReportingOverflow(max(0, nanoseconds))
        _ = try rest(until: overflow ? .max : end) { _ in false }
    }

    /// Waits until ``wake()`` was called since the last wait, the caller asks to complete, or at most
    /// `nanoseconds`.
    ///
    /// - Throws: `cancelled`.
    public func waitForNews(atMost nanoseconds: Int = .max) throws(BlockError) {
        let (end, overflow) = clock.now().addingReportingOverflow(nanoseconds)
        _ = try rest(until: overflow ? .max : end) { $0.hasNews || $0.mustComplete }
        state.withLock { $0.hasNews = false }
    }

    /// Ends ``waitForNews(atMost:)``: there is work.
    public func wake() {
        state.withLock { $0.hasNews = true }
        state.notifyAll()
    }

    func begin() { change { $0.hasBegun = true } }
    func end() { change { $0.hasEnded = true } }

    private func waitWhilePaused() throws(BlockError) {
        if state.withLock({ $0.pauses == 0 && !$0.isCancelled }) { return }
        _ = try rest(until: .max) { $0.pauses == 0 }
    }

    /// Waits until `ready`, the deadline or cancellation.
    ///
    /// - Returns: whether `ready` is `true`.
    private func rest(
        until deadline: Int, _ ready: (inout State) -> Bool
    ) throws(BlockError) -> Bool {
        state.withLock { $0.resting += 1 }
        let isReady = clock.wait(on: state, until: deadline) { $0.isCancelled || ready(&$0) }
        let isCancelled = state.withLock { state in
            state.resting -= 1
            return state.isCancelled
        }
        if isCancelled { throw BlockError(.cancelled, "The job was cancelled") }
        return isReady
    }

    private func progress(_ body: (inout Progress) -> Void) {
        let (progress, observers) = state.withLock { state in
            body(&state.progress)
            return (state.progress, state.observers)
        }
        onProgress?(progress)
        for observer in observers { observer(self) }
    }

    private func change(_ body: (inout State) -> Void) {
        let observers = state.withLock { state in
            body(&state)
            return state.observers
        }
        state.notifyAll()
        for observer in observers { observer(self) }
    }
}
