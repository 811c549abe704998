/// Starts jobs, each on a thread of its own, and knows those that run.
///
/// Thread-safe.
///
/// ```swift
/// let engine = JobEngine()
/// let job = try engine.start(StreamJob(node: disk), speed: 64 << 20)
/// try disk.write(bytes, at: 0)  // the guest goes on
/// try job.wait()
/// ```
public final class JobEngine: Sendable {
    private struct State {
        var jobs: [RunningJob] = []
        /// The jobs whose completion is being called: their names are free again.
        var ending: [RunningJob] = []
        var nextNumber = 0
    }

    private let state = Monitor(State())
    private let clock: any BlockClock

    /// - Parameter clock: the clock of the jobs' speed.
    public init(clock: any BlockClock = SystemClock()) { self.clock = clock }

    /// The jobs that have not ended, in the order of their start.
    public var jobs: [RunningJob] { state.withLock { $0.jobs } }

    /// The job of that name; `nil` for none that runs.
    public func job(_ id: String) -> RunningJob? { jobs.first { $0.id == id } }

    /// Starts a job.
    ///
    /// - Parameters:
    ///   - id: a name; `nil` for the type's name and a number.
    ///   - speed: the limit in bytes a second; 0 for none.
    ///   - isPaused: whether it begins paused.
    ///   - onProgress: called on the job's threads after each step; must be quick.
    ///   - completion: called once, on the job's thread, when the job has given its nodes back. It may start
    ///     another job and close the nodes; it must not wait for this one.
    /// - Throws: `busy` when another job uses a node; `exists` for a name in use; `unsupported` for a speed
    ///   that the type has not, `invalidArgument` for a negative one; `limit` when no thread can be started;
    ///   as ``BlockJob/prepare()``.
    @discardableResult
    public func start(
        _ job: any BlockJob, id: String? = nil, speed: Int = 0, isPaused: Bool = false,
        onProgress: (@Sendable (JobControl.Progress) -> Void)? = nil,
        completion: @escaping RunningJob.Completion = { _, _ in }
    ) throws(BlockError) -> RunningJob {
        let type = Swift.type(of: job)
        try RunningJob.check(speed: speed, of: type)
        try RunningJob.check(speed: job.speed, of: type)
        let control = JobControl(
            bytesPerSecond: speed > 0 ? speed : job.speed, clock: clock, onProgress: onProgress)
        if isPaused { control.pause() }
        let running = RunningJob(
            job, id: newID(id, type.name), control: control, completion: completion)
        try add(running)
        let use = NodeUse(by: type.name, onClose: { running.cancelAndWait() })
        do throws(BlockError) {
            try use.begin(on: running.nodes)
            do throws(BlockError) {
                try job.prepare()
                guard WorkerThreads.detach({ running.perform(use, self.forget, self.remove) }) else {
                    job.abandon()
                    throw BlockError(.limit, "The system cannot start another thread")
                }
            } catch {
                use.end(on: running.nodes)
                throw error
            }
        } catch {
            giveUp(running, error)
            throw error
        }
        return running
    }

    /// Does a job's work on the calling thread, under a control that the caller has made; it is one of
    /// ``jobs`` meanwhile.
    ///
    /// - Throws: as ``start(_:id:speed:isPaused:onProgress:completion:)``; the error with which the work
    ///   failed; `cancelled`.
    public func run(_ job: any BlockJob, _ control: JobControl) throws(BlockError) {
        let type = Swift.type(of: job)
        try RunningJob.check(speed: control.speed, of: type)
        try RunningJob.check(speed: job.speed, of: type)
        if job.speed > 0 { control.setSpeed(job.speed) }
        let running = RunningJob(job, id: newID(nil, type.name), control: control, completion: { _, _ in })
        try add(running)
        let use = NodeUse(by: type.name, onClose: { control.cancel() })
        do throws(BlockError) { try use.begin(on: running.nodes) } catch {
            giveUp(running, error)
            throw error
        }
        running.perform(use, forget, remove)
        try running.wait()
    }

    /// Waits until all jobs have ended, also those that start meanwhile.
    public func waitAll() { state.wait(until: { $0.jobs.isEmpty && $0.ending.isEmpty }) { _ in } }

    /// Cancels all jobs and waits for their ends.
    public func cancelAll() {
        for job in jobs { job.cancelAndWait() }
    }

    private func newID(_ id: String?, _ type: String) -> String {
        if let id { return id }
        return state.withLock { state in
            repeat {
                state.nextNumber += 1
            } while state.jobs.contains { $0.id == "\(type)\(state.nextNumber)" }
            return "\(type)\(state.nextNumber)"
        }
    }

    private func add(_ job: RunningJob) throws(BlockError) {
        try state.withLock { state throws(BlockError) in
            if state.jobs.contains(where: { $0.id == job.id }) {
                throw BlockError(.exists, "Job ID '\(job.id)' already in use")
            }
            state.jobs.append(job)
        }
    }

    /// Frees the name of a job that has given its nodes back.
    private func forget(_ job: RunningJob) {
        state.withLock { state in
            state.jobs.removeAll { $0 === job }
            state.ending.append(job)
        }
    }

    private func remove(_ job: RunningJob) {
        state.withLock { state in
            state.jobs.removeAll { $0 === job }
            state.ending.removeAll { $0 === job }
        }
        state.notifyAll()
    }

    /// Ends a job that cannot start: somebody may wait for it already.
    private func giveUp(_ job: RunningJob, _ error: BlockError) {
        job.end(error)
        remove(job)
    }
}
