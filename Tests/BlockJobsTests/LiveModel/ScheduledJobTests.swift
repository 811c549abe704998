#if DEBUG
    import BlockCore
    import BlockJobs
    import BlockTestSupport
    import Synchronization
    import Testing

    /// Jobs, guests and a device's end in orders that a seed chooses, one thread at a time.
    @Suite("Jobs under a schedule", .timeLimit(.minutes(60))) struct ScheduledJobTests {
        /// A random life of a device, in which a seed also chooses the order of the threads: a failure is the
        /// same each time.
        @Test func everyLifeAgreesWithTheModel() {
            var figures = ProofFigures(part: "model", what: "Lives of 30 steps, one thread at a time")
            for seed in TestEffort.seed..<TestEffort.seed + UInt64(TestEffort.scaled(6)) {
                let steps = LiveStep.sequence(seed: seed, count: 30)
                figures.tried += 1
                guard let failure = Self.failure(of: steps, seed) else { continue }
                figures.violations += 1
                var last = failure
                let fewer = LiveShrinking.shrink(steps, attempts: Self.attempts(failure)) { steps in
                    guard let failure = Self.failure(of: steps, seed) else { return false }
                    last = failure
                    return true
                }
                let list = fewer.map { "  .\($0)," }.joined(separator: "\n")
                Issue.record("seed \(seed): \(failure)\nshrunk: \(last)\n\(list)")
                break
            }
            figures.note()
        }

        /// A wait that the schedule does not see takes minutes each time.
        private static func attempts(_ failure: String) -> Int { failure.contains("does not see") ? 0 : 100 }

        private static func failure(of steps: [LiveStep], _ seed: UInt64) -> String? {
            let box = Box()
            let stuck = SeededSchedule.run(seed: seed) {
                do {
                    _ = try LiveModel.live(
                        steps, seed: seed, clock: ManualClock(movesByItself: true),
                        point: SeededSchedule.point)
                } catch { box.set("\(error)") }
            }
            return stuck ?? box.value
        }

        /// A job is cancelled, its device is closed, and it is waited for, all at once: its completion comes
        /// once, and the disk is right.
        @Test(arguments: 0..<TestEffort.scaled(24))
        func everythingEndsAtOnce(_ seed: Int) throws {
            let chain = try LiveChain(layers: 2, seed: 3)
            try chain.make("copy")
            let completions = Monitor(0)
            let stuck = SeededSchedule.run(seed: UInt64(seed)) {
                guard let top = try? chain.open("layer1"), let copy = try? chain.open("copy") else { return }
                let device = BlockDevice(name: "disk0", root: top)
                let jobs: [any BlockJob] = [
                    StreamJob(node: top), MirrorJob(source: top, target: copy, device: device),
                    ActiveCommitJob(top: top, device: device), BackupJob(source: top, target: copy),
                ]
                let engine = JobEngine(clock: ManualClock(movesByItself: true))
                let job = try? engine.start(
                    jobs[seed % 4], completion: { _, _ in completions.withLock { $0 += 1 } })
                let canceller = TestThread {
                    if seed % 3 == 0 { job?.waitUntilReady() }
                    if seed % 2 == 0 { job?.cancel() } else { try job?.complete() }
                }
                let guest = TestThread { _ = try device.readBytes(at: 0, count: 8192) }
                try? device.close()
                canceller.wait()
                guest.wait()
                engine.waitAll()
                try? copy.close()
            }
            #expect(stuck == nil)
            #expect(completions.withLock { $0 } == 1)
            #expect(chain.store.openDisks == 0)
        }

        /// Two threads write while a third gives the device another top again and again.
        @Test(arguments: 0..<TestEffort.scaled(24))
        func everyRequestGoesToTheTop(_ seed: Int) throws {
            let chain = try LiveChain(layers: 2, seed: 3)
            let faults = Monitor<[String]>([])
            let stuck = SeededSchedule.run(seed: UInt64(seed)) {
                guard let one = try? chain.open("layer1"), let two = try? Self.copy(chain) else { return }
                let device = BlockDevice(name: "disk0", root: one)
                let pivot = TestThread {
                    for step in 0..<6 {
                        let (old, new) = step % 2 == 0 ? (one, two) : (two, one)
                        try device.drained { () throws(BlockError) in
                            // What the old top holds goes to the new one while nobody writes.
                            let bytes = try old.readBytes(at: 0, count: 8192)
                            try new.write(bytes.span.bytes, at: 0)
                            try device.replaceRoot(old, with: new)
                        }
                    }
                }
                try? WorkerThreads.run(2) { thread throws(BlockError) in
                    for stamp in 1..<20 {
                        let bytes = [UInt8](repeating: UInt8(stamp), count: 512)
                        try device.write(bytes.span.bytes, at: thread * 512)
                        let found = try device.readBytes(at: thread * 512, count: 512)
                        if found != bytes { faults.withLock { $0.append("write \(stamp) is lost") } }
                    }
                }
                pivot.wait()
                try? one.close()
                try? two.close()
            }
            #expect(stuck == nil)
            #expect(faults.withLock { $0 } == [])
        }

        private static func copy(_ chain: LiveChain) throws -> BlockNode {
            try chain.make("copy")
            return try chain.open("copy")
        }
    }

    private final class Box: Sendable {
        private let state = Mutex<String?>(nil)
        var value: String? { state.withLock { $0 } }
        func set(_ text: String) { state.withLock { $0 = text } }
    }
#endif
