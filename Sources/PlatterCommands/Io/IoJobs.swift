import BlockCore
import BlockJobs

/// The command `job`: work on the open image beside the commands that follow.
enum IoJobs {
    static let verbs = [
        IoVerb(
            name: "job", arguments: "start TYPE [options] | list | ACTION id [speed]",
            summary: "work on the image while further commands read and write",
            help: [
                "start stream [-b base] [-B name] [-t layer]", "start commit [-b base] [-t layer] [-B name]",
                "start mirror [-f format] [-S full|top|none] [-g granularity] [-nw] file",
                "start backup [-f format] [-S full|top|none|bitmap] [-cn] file",
                "start create [-f format] [-o options] file size",
                "-i  the job's name  -s  bytes a second  -p  begin paused",
                "-t  the layer of the chain to work on, else the top  -B  the name to store for base",
                "-n  the target exists: make none  -w  writes wait until the mirror has them  -c  compress",
                "list            all jobs, one a line", "speed id bytes  change the speed; 0 for no limit",
                "pause id, resume id, cancel id",
                "complete id     end a mirror or an active commit, and go on with its target",
                "wait [id]       wait for the end, or that of all jobs, and tell it",
            ], minimum: 1, isOwn: true, work: .disk(run))
    ]

    private static func run(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        var call = call
        let action = call.arguments.removeFirst()
        call.word = "job \(action)"
        switch action {
        case "start": try IoJobStart(shell, disk, call).start()
        case "list":
            try expect(0, call)
            for job in shell.jobs.running { shell.print(line(job)) }
        case "speed":
            try expect(2, call)
            try shell.jobs.job(call.arguments[0]).setSpeed(try IoOptions.size(call.arguments[1]))
        case "pause":
            try expect(1, call)
            try shell.jobs.job(call.arguments[0]).pause()
        case "resume":
            try expect(1, call)
            try shell.jobs.job(call.arguments[0]).resume()
        case "cancel":
            try expect(1, call)
            try shell.jobs.job(call.arguments[0]).cancel()
        case "complete":
            try expect(1, call)
            let job = try shell.jobs.job(call.arguments[0])
            shell.jobs.waitUntilReady(job)
            if !job.hasEnded { try job.complete() }
        case "wait": try wait(shell, call)
        default: throw IoFailure.usage
        }
    }

    private static func expect(_ count: Int, _ call: IoCall) throws(IoFailure) {
        if call.arguments.count != count { throw .usage }
    }

    private static func line(_ job: RunningJob) -> String {
        let speed = job.speed > 0 ? " speed \(job.speed)" : ""
        return "\(job.id) \(job.typeName) \(job.status.rawValue) \(job.offset)/\(job.length)\(speed)"
    }

    /// Waits for one job or for all, prints how each ended, and fails when one failed.
    private static func wait(_ shell: IoShell, _ call: IoCall) throws {
        guard call.arguments.count <= 1 else { throw IoFailure.usage }
        var hasFailed = false
        for (id, failure) in try shell.jobs.wait(for: call.arguments.first) {
            shell.printEndedReports()
            shell.print("job \(id): \(failure.map(\.message) ?? "completed")")
            if let failure, failure.kind != .cancelled { hasFailed = true }
        }
        if hasFailed { throw IoFailure.silent }
    }
}

/// The jobs of a shell, until somebody has waited for their end. Thread-safe.
final class IoJobList: Sendable {
    let engine = JobEngine()
    private let started = Monitor<[RunningJob]>([])

    /// The jobs that have not ended, in the order of their start.
    var running: [RunningJob] { started.withLock { $0.filter { !$0.hasEnded } } }

    /// Starts a job.
    func start(
        _ job: any BlockJob, id: String?, speed: Int, isPaused: Bool, atEnd: @escaping @Sendable () -> Void
    ) throws(BlockError) {
        if let id, started.withLock({ $0.contains { $0.id == id } }) {
            throw BlockError(.exists, "Job ID '\(id)' already in use")
        }
        let job = try engine.start(
            job, id: id, speed: speed, isPaused: isPaused, completion: { _, _ in atEnd() })
        started.withLock { $0.append(job) }
        // News for whoever waits until it is ready.
        job.control.observe { [started] _ in started.notifyAll() }
    }

    /// The job of that name.
    ///
    /// - Throws: a line that there is none.
    func job(_ id: String) throws(IoFailure) -> RunningJob {
        guard let job = started.withLock({ $0.first { $0.id == id } }) else {
            throw .output("Job '\(id)' not found")
        }
        return job
    }

    /// Waits until a job can be completed, or has ended.
    func waitUntilReady(_ job: RunningJob) {
        guard job.type.waitsForCompletion else { return }
        while !job.control.isReady, job.status != .concluded {
            _ = started.wait(forNanoseconds: 10_000_000) { _ in job.control.isReady }
        }
    }

    /// Waits for the end of one job, or of all, and takes them off the list.
    func wait(for id: String?) throws(IoFailure) -> [(id: String, failure: BlockError?)] {
        let jobs = try id.map { id throws(IoFailure) in [try job(id)] } ?? started.withLock { $0 }
        return jobs.map { job in
            let failure = job.result()
            started.withLock { list in list.removeAll { $0 === job } }
            return (job.id, failure)
        }
    }

    /// Ends all jobs, before the image is closed.
    func cancelAll() {
        engine.cancelAll()
        started.withLock { $0 = [] }
    }
}
