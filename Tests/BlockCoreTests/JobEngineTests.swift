import BlockCore
import BlockTestSupport
import Synchronization
import Testing

/// Jobs that a test steers: no disk is involved but as the thing in use.
@Suite struct JobEngineTests {
    private let store = TestStore()

    private func disk(_ name: String = "disk") throws -> BlockNode {
        let images = TestImages(store)
        images.createRaw(name, size: 1 << 20)
        return try images.open(name, format: "raw")
    }

    /// Work whose end the test decides.
    private final class Script: Sendable {
        let state = Monitor<(begun: Bool, isOver: Bool)>((false, false))
        func begin() {
            state.withLock { $0.begun = true }
            state.notifyAll()
        }
        func waitForBegin() { state.wait(until: { $0.begun }) { _ in } }
        func finish() {
            state.withLock { $0.isOver = true }
            state.notifyAll()
        }
    }

    private struct Job: BlockJob {
        static let name = "script"
        let nodes: [BlockNode]
        let script: Script
        /// Whether it ends only when it is cancelled.
        var sleeps = false
        var failure: BlockError?

        func work(_ control: JobControl) throws(BlockError) {
            script.begin()
            if sleeps { try control.sleep(nanoseconds: 1 << 60) }
            script.state.wait(until: { $0.isOver }) { _ in }
            if let failure { throw failure }
        }
    }

    private struct Speedless: BlockJob {
        static let name = "speedless"
        static let hasSpeed = false
        let nodes: [BlockNode]
        func work(_ control: JobControl) throws(BlockError) {}
    }

    private struct Ready: BlockJob {
        static let name = "ready"
        static let waitsForCompletion = true
        let nodes: [BlockNode]
        let gate: Script
        func work(_ control: JobControl) throws(BlockError) {
            gate.state.wait(until: { $0.isOver }) { _ in }
            control.becomeReady()
            while !control.mustComplete { try control.waitForNews() }
        }
    }

    /// Counts completions.
    private final class Ends: Sendable {
        let list = Mutex<[BlockError.Kind?]>([])
        var completion: RunningJob.Completion {
            { [self] _, failure in list.withLock { $0.append(failure?.kind) } }
        }
    }

    @Test(.timeLimit(.minutes(1)), arguments: [nil, BlockError.Kind.io])
    func theCompletionIsCalledOnceWithTheResult(_ kind: BlockError.Kind?) throws {
        let node = try disk()
        let (engine, script, ends) = (JobEngine(), Script(), Ends())
        let failure = kind.map { BlockError($0, "broken") }
        let job = try engine.start(
            Job(nodes: [node], script: script, failure: failure), completion: ends.completion)
        script.waitForBegin()
        #expect(engine.jobs.map(\.id) == [job.id])
        #expect(node.user == "script")
        #expect(!job.hasEnded && job.isBusy)
        script.finish()
        #expect(blockError { () throws(BlockError) in try job.wait() }?.kind == kind)
        engine.waitAll()
        #expect(ends.list.withLock { $0 } == [kind])
        #expect(job.hasEnded && job.status == .concluded && node.user == nil)
        try node.close()
        #expect(ends.list.withLock { $0.count } == 1)
    }

    @Test(.timeLimit(.minutes(1)))
    func oneJobANode() throws {
        let node = try disk()
        let (engine, script) = (JobEngine(), Script())
        try engine.start(Job(nodes: [node], script: script), id: "first")
        let second = blockError { () throws(BlockError) in
            try engine.start(Job(nodes: [node], script: Script()), id: "second")
        }
        #expect(second?.kind == .busy)
        #expect(second?.message.contains("script") == true)
        #expect(engine.jobs.map(\.id) == ["first"])
        let other = try disk("other")
        let same = blockError { () throws(BlockError) in
            try engine.start(Job(nodes: [other], script: Script()), id: "first")
        }
        #expect(same?.kind == .exists)
        #expect(other.user == nil)
        // What would change the disk below the job is refused meanwhile.
        #expect(blockError { () throws(BlockError) in try node.resize(to: 4096) }?.kind == .busy)
        script.finish()
        engine.waitAll()
        try node.resize(to: 8192)
        try node.close()
        try other.close()
    }

    @Test(.timeLimit(.minutes(1)))
    func closingTheNodeCancelsAndWaits() throws {
        let node = try disk()
        let (engine, script, ends) = (JobEngine(), Script(), Ends())
        let job = try engine.start(
            Job(nodes: [node], script: script, sleeps: true), completion: ends.completion)
        script.waitForBegin()
        try node.close()
        #expect(job.hasEnded)
        #expect(ends.list.withLock { $0 } == [.cancelled])
        #expect(engine.jobs.isEmpty)
    }

    @Test(.timeLimit(.minutes(1)))
    func theCompletionMayCloseTheNode() throws {
        let node = try disk()
        let (engine, script) = (JobEngine(), Script())
        let closed = Mutex(0)
        let job = try engine.start(
            Job(nodes: [node], script: script),
            completion: { _, _ in
                if (try? node.close()) != nil { closed.withLock { $0 += 1 } }
            })
        script.finish()
        try job.wait()
        #expect(closed.withLock { $0 } == 1)
    }

    @Test(.timeLimit(.minutes(1)))
    func cancelAndWaitAnswersTheOwnResult() throws {
        let node = try disk()
        let (engine, script) = (JobEngine(), Script())
        let job = try engine.start(Job(nodes: [node], script: script))
        script.finish()
        try job.wait()
        #expect(job.cancelAndWait() == nil)
        let sleeping = try engine.start(Job(nodes: [node], script: Script(), sleeps: true))
        #expect(sleeping.cancelAndWait()?.kind == .cancelled)
        try node.close()
    }

    @Test func speedIsValidated() throws {
        let node = try disk()
        let engine = JobEngine()
        let negative = blockError { () throws(BlockError) in
            try engine.start(Job(nodes: [node], script: Script()), speed: -1)
        }
        #expect(negative?.kind == .invalidArgument)
        let speedless = blockError { () throws(BlockError) in
            try engine.start(Speedless(nodes: [node]), speed: 1)
        }
        #expect(speedless?.kind == .unsupported)
        #expect(speedless?.message.contains("does not support") == true)
        #expect(engine.jobs.isEmpty && node.user == nil)
        let job = try engine.start(Speedless(nodes: [node]))
        #expect(blockError { () throws(BlockError) in try job.setSpeed(5) }?.kind == .unsupported)
        try job.setSpeed(0)
        #expect(blockError { () throws(BlockError) in try job.setSpeed(-5) }?.kind == .invalidArgument)
        try job.wait()
        try node.close()
    }

    @Test(.timeLimit(.minutes(1)))
    func completionWaitsForReadiness() throws {
        let node = try disk()
        let (engine, gate) = (JobEngine(), Script())
        let ready = Monitor(false)
        let job = try engine.start(Ready(nodes: [node], gate: gate))
        job.control.observe { control in
            guard control.isReady else { return }
            ready.withLock { $0 = true }
            ready.notifyAll()
        }
        #expect(blockError { () throws(BlockError) in try job.complete() }?.kind == .busy)
        gate.finish()
        ready.wait(until: { $0 }) { _ in }
        #expect(job.status == .ready)
        try job.complete()
        try job.wait()
        let script = Script()
        let plain = try engine.start(Job(nodes: [node], script: script))
        #expect(blockError { () throws(BlockError) in try plain.complete() }?.kind == .unsupported)
        script.finish()
        try plain.wait()
        try node.close()
    }

    @Test(.timeLimit(.minutes(1)))
    func aJobBeginsPausedAndCancelAllEndsIt() throws {
        let node = try disk()
        let engine = JobEngine()
        let job = try engine.start(
            Job(nodes: [node], script: Script(), sleeps: true), isPaused: true)
        #expect(job.isPaused)
        try job.resume()
        #expect(blockError { () throws(BlockError) in try job.resume() }?.kind == .invalidArgument)
        engine.cancelAll()
        #expect(engine.jobs.isEmpty)
        try node.close()
    }
}
