/// A job that ``JobEngine`` has started.
///
/// Thread-safe.
///
/// Exactly one call of its completion follows, whether the work succeeds, fails, is cancelled, or its node is
/// closed.
public final class RunningJob: Sendable {
    /// The work's result: `nil` for success.
    public typealias Completion = @Sendable (_ job: RunningJob, _ failure: BlockError?) -> Void

    private struct Ending {
        var failure: BlockError?
    }

    /// The name by which the engine knows it.
    public let id: String
    /// The job's type: `stream`, `commit`, ...
    public let type: any BlockJob.Type
    /// The node that it is listed under; `nil` for a job without one.
    public let node: BlockNode?
    /// Progress, speed, pauses.
    public let control: JobControl

    private let job: any BlockJob
    /// The nodes in use: those of the start, since a job may change the chain.
    let nodes: [BlockNode]
    private let completion: Completion
    private let ending = Monitor<Ending?>(nil)

    init(_ job: any BlockJob, id: String, control: JobControl, completion: @escaping Completion) {
        self.job = job
        self.id = id
        type = Swift.type(of: job)
        nodes = job.nodes
        node = nodes.first
        self.control = control
        self.completion = completion
    }

    // MARK: State

    /// The job's type by name.
    public var typeName: String { type.name }
    /// The bytes of work done.
    public var offset: Int { control.progress.done }
    /// The bytes of all work.
    public var length: Int { control.progress.total }
    /// The speed limit in bytes a second; 0 for none.
    public var speed: Int { control.speed }
    /// Whether the job is at work, and neither waits nor sleeps.
    public var isBusy: Bool { control.isBusy }
    /// Whether a caller has paused it.
    public var isPaused: Bool { control.isPaused }
    /// Whether a caller has cancelled it.
    public var isCancelled: Bool { control.isCancelled }
    /// What the job does at the moment.
    public var status: JobControl.Status { control.status }
    /// Whether the completion was called.
    public var hasEnded: Bool { ending.withLock { $0 != nil } }

    // MARK: Steering

    /// Changes the speed limit in bytes a second; 0 for none.
    ///
    /// Takes effect within a slice (``JobPace/sliceNanoseconds``).
    ///
    /// - Throws: `unsupported` when the type has no speed; `invalidArgument` for a negative one.
    public func setSpeed(_ bytesPerSecond: Int) throws(BlockError) {
        try Self.check(speed: bytesPerSecond, of: type)
        control.setSpeed(bytesPerSecond)
    }

    static func check(speed: Int, of type: any BlockJob.Type) throws(BlockError) {
        guard speed >= 0 else { throw BlockError(.invalidArgument, "Speed must be non-negative") }
        if speed > 0, !type.hasSpeed {
            throw BlockError(.unsupported, "Job type '\(type.name)' does not support a speed limit")
        }
    }

    /// Pauses the job at its next step.
    ///
    /// Pauses add up.
    public func pause() { control.pause() }

    /// Takes one pause back.
    ///
    /// - Throws: `invalidArgument` when it is not paused.
    public func resume() throws(BlockError) {
        guard isPaused else { throw BlockError(.invalidArgument, "Job '\(id)' is not paused") }
        control.resume()
    }

    /// Makes the job stop at its next step.
    ///
    /// Does not wait.
    public func cancel() { control.cancel() }

    /// Cancels the job and waits for its end.
    ///
    /// Not to be called by the job's own thread.
    ///
    /// - Returns: the job's own result: `nil` if it had succeeded before it noticed.
    @discardableResult
    public func cancelAndWait() -> BlockError? {
        cancel()
        return result()
    }

    /// Asks a job that follows the guest's writes to end, once it is ready.
    ///
    /// Does not wait.
    ///
    /// - Throws: `unsupported` for a type that ends by itself; `busy` before it is ready.
    public func complete() throws(BlockError) {
        guard type.waitsForCompletion else {
            throw BlockError(.unsupported, "Job type '\(typeName)' cannot be completed: it ends by itself")
        }
        guard control.isReady else {
            throw BlockError(.busy, "The active block job '\(id)' cannot be completed: it is not ready")
        }
        control.requestCompletion()
    }

    /// Waits for the end.
    ///
    /// Not to be called by the job's own thread, nor in its completion.
    ///
    /// - Throws: the error with which the work failed; `cancelled`.
    public func wait() throws(BlockError) {
        if let failure = result() { throw failure }
    }

    /// Waits for the end; `nil` for success.
    ///
    /// As ``wait()``.
    public func result() -> BlockError? {
        ending.wait(until: { $0 != nil }) { $0?.failure }
    }

    // MARK: Running

    /// Does the work on the calling thread, whose `use` of the nodes has begun.
    ///
    /// - Parameters:
    ///   - forget: frees the job's name, before the completion.
    ///   - remove: takes the job off the list, after it.
    func perform(
        _ use: NodeUse, _ forget: (RunningJob) -> Void, _ remove: (RunningJob) -> Void
    ) {
        use.ownedByThisThread()
        control.begin()
        var failure: BlockError?
        do throws(BlockError) { try job.work(control) } catch { failure = error }
        control.end()
        use.end(on: nodes)
        forget(self)
        completion(self, failure)
        end(failure)
        remove(self)
    }

    /// Lets those go on that wait for the end.
    func end(_ failure: BlockError?) {
        ending.withLock { $0 = Ending(failure: failure) }
        ending.notifyAll()
    }
}
