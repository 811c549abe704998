import BlockCore
import BlockTestSupport
import Testing

@testable import BlockJobs

/// Orders of events that a backup must survive, forced by holding up the target; and failing targets.
@Suite struct BackupScheduleTests {
    private let images = BackupImages()
    private let pause = PausePoint()
    private let targetStore = TestStore()
    private let engine = JobEngine()
    private let size = 256 << 10
    private var targets: BackupImages { BackupImages(targetStore, pause: pause) }

    private func disk() throws -> BlockNode {
        let source = try images.make("disk", "raw", size: size)
        try source.write([UInt8](repeating: 1, count: size).span.bytes, at: 0)
        return source
    }

    private func write(_ byte: UInt8, at offset: Int, _ node: BlockNode) -> TestThread {
        TestThread { try node.write([UInt8](repeating: byte, count: 512).span.bytes, at: offset) }
    }

    private func stored(_ name: String, at offset: Int, in images: BackupImages) throws -> UInt8 {
        try #require(images.store[name]).read(at: offset, count: 1)[0]
    }

    @Test(.timeLimit(.minutes(1)))
    func aWriteWaitsForTheCopyThatIsUnderWay() throws {
        let source = try disk()
        let target = try targets.make("copy", "raw", size: size)
        pause.arm(count: size)
        let job = try engine.start(BackupJob(source: source, target: target))
        pause.waitUntilReached()
        let writer = write(2, at: 4096, source)
        // Reading goes on.
        let reader = TestThread { [size] in _ = try source.readBytes(at: 0, count: size) }
        if writer.isEnded { Issue.record("the write did not wait") }
        #expect(try stored("disk", at: 4096, in: images) == 1)
        pause.resume()
        try job.wait()
        writer.wait()
        reader.wait()
        #expect(try Layers.contents(target) == [UInt8](repeating: 1, count: size))
        #expect(try source.readBytes(at: 4096, count: 1) == [2])
    }

    @Test(.timeLimit(.minutes(1)))
    func nothingChangesInAClusterBeforeItsCopyIsThere() throws {
        let source = try disk()
        let target = try targets.make("copy", "raw", size: size)
        let job = try engine.start(BackupJob(source: source, target: target, sync: .none))
        job.control.wait { $0.isReady }
        pause.arm(count: 65536)
        let first = pause.hold { try source.write([UInt8](repeating: 2, count: 512).span.bytes, at: 4096) }
        #expect(pause.isReached)
        let neighbour = write(3, at: 8192, source)
        // Another cluster does not wait.
        let other = write(4, at: 131_072, source)
        other.wait()
        #expect(try stored("disk", at: 131_072, in: images) == 4)
        #expect(!first.isEnded && !neighbour.isEnded)
        #expect(try stored("disk", at: 4096, in: images) == 1)
        #expect(try stored("disk", at: 8192, in: images) == 1)
        pause.resume()
        first.wait()
        neighbour.wait()
        #expect(try source.readBytes(at: 4096, count: 1) == [2])
        #expect(try source.readBytes(at: 8192, count: 1) == [3])
        try job.complete()
        try job.wait()
        #expect(try target.readBytes(at: 0, count: 65536) == [UInt8](repeating: 1, count: 65536))
        #expect(try target.readBytes(at: 65536, count: 65536) == [UInt8](repeating: 0, count: 65536))
    }

    @Test(.timeLimit(.minutes(1)), arguments: PointInTimeCopy.ErrorPolicy.allCases)
    func aFullTargetBreaksTheWriteOrTheBackup(_ policy: PointInTimeCopy.ErrorPolicy) throws {
        let source = try disk()
        let target = try targets.make("copy", "raw", size: size)
        let job = try engine.start(
            BackupJob(source: source, target: target, sync: .none, errorPolicy: policy))
        job.control.wait { $0.isReady }
        targetStore.faults.arm(1, .fullFromThen)
        let failure = blockError { () throws(BlockError) in try source.write([2].span.bytes, at: 0) }
        if policy == .breakGuestWrite {
            #expect(failure?.kind == .noSpace)
            #expect(try source.readBytes(at: 0, count: 1) == [1])
            targetStore.faults.disarm()
            try source.write([2].span.bytes, at: 0)
            try job.complete()
            try job.wait()
            #expect(try target.readBytes(at: 0, count: 1) == [1])
        } else {
            #expect(failure == nil)
            #expect(try source.readBytes(at: 0, count: 1) == [2])
            // It ends by itself.
            #expect(blockError { () throws(BlockError) in try job.wait() }?.kind == .noSpace)
            try source.write([3].span.bytes, at: 0)
        }
    }

    /// Whichever call of the target fails, the bitmap still has what the next backup needs.
    @Test(.timeLimit(.minutes(3)), arguments: FaultPlan.Mode.usual, [false, true])
    func theNextBackupIsWholeAfterAnyFailure(_ mode: FaultPlan.Mode, _ isStored: Bool) throws {
        var number = 0
        var failures = 0
        while number < 300 {
            number += 1
            let (images, targets) = (BackupImages(), BackupImages())
            let source = try images.make("disk", size: size, cluster: 4096)
            try source.write([UInt8](repeating: 1, count: size).span.bytes, at: 0)
            try BackupJob(source: source, target: targets.make("full", size: size)).run(JobControl())
            if isStored {
                try source.changeBitmaps { driver throws(BlockError) in
                    try driver.addBitmap("b", granularity: 4096, isEnabled: true)
                }
            } else {
                _ = try source.addBitmap(named: "b", granularity: 4096)
            }
            try source.write([UInt8](repeating: 2, count: 9000).span.bytes, at: 100_000)
            try source.writeZeroes(at: 200_000, count: 9000)
            let torn = try targets.make("torn", size: size)
            targets.store.faults.arm(number, mode)
            let failure = blockError { () throws(BlockError) in
                try BackupJob(source: source, target: torn, sync: .incremental(bitmap: "b")).run(JobControl())
            }
            targets.store.faults.disarm()
            let marked = try source.bitmapBits(named: "b").runs
            if failure == nil {
                #expect(marked.isEmpty)
                break
            }
            failures += 1
            let changes = try targets.make("changes", size: size, over: ("full", "qcow2"))
            try BackupJob(source: source, target: changes, sync: .incremental(bitmap: "b")).run(JobControl())
            #expect(try Layers.contents(changes) == Layers.contents(source), "call \(number)")
            try source.close()
            try changes.close()
        }
        #expect(failures > 3 && number < 300)
    }
}
