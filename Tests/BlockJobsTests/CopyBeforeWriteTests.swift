import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

@testable import BlockJobs

/// The filters copy-before-write and snapshot-access.
@Suite struct CopyBeforeWriteTests {
    private let images = BackupImages()
    private let size = 1 << 20

    private struct Parts {
        var node: BlockNode
        var filter: CopyBeforeWriteDriver
        var disk: BlockNode
        var target: BlockNode
        var before: [UInt8]
    }

    private func parts(
        _ format: String = "qcow2", to targets: BackupImages = BackupImages(),
        _ options: PointInTimeCopy.Options = PointInTimeCopy.Options(),
        scope: (BlockNode) -> DirtyBitmap? = { _ in nil }
    ) throws -> Parts {
        let disk = try images.makeFilled("disk", format, size: size, seed: 3)
        try disk.write([UInt8](repeating: 1, count: 65536).span.bytes, at: 0)
        let target = try targets.make("kept", "raw", size: size)
        let bits = scope(disk)
        let filter = try CopyBeforeWriteDriver(over: disk, target: target, options: options) {
            () throws(BlockError) in bits
        }
        let node = BlockNode(.filter(filter), filename: "disk", settings: OpenSettings(readOnly: false))
        return Parts(
            node: node, filter: filter, disk: disk, target: target, before: try Layers.contents(disk))
    }

    /// Whoever writes, through the filter or past it: readers of the snapshot see the moment.
    @Test(.timeLimit(.minutes(2)), arguments: ["raw", "qcow2"], 0..<3)
    func theSnapshotStays(_ format: String, _ seed: Int) throws {
        let parts = try parts(format)
        let snapshot = parts.filter.snapshot()
        let wrong = Monitor(0)
        let guests =
            Guest.threads(2, on: parts.node, seed: UInt64(seed)) + Guest.threads(1, on: parts.disk, seed: 9)
        let readers = (0..<2).map { index in
            TestThread { [size] in
                var random = SeededRandom(seed: UInt64(seed * 2 + index))
                for _ in 0..<60 {
                    let offset = random.number(in: 0..<size - 100_000)
                    let count = 1 + random.number(in: 0..<100_000)
                    let bytes = try snapshot.readBytes(at: offset, count: count)
                    if !bytes.elementsEqual(parts.before[offset..<offset + count]) {
                        wrong.withLock { $0 += 1 }
                    }
                }
                wrong.withLock { $0 += 1000 }
            }
        }
        (guests + readers).forEach { $0.wait() }
        // Each reader came to its end, and saw nothing wrong.
        #expect(wrong.withLock { $0 } == 2000)
        #expect(try snapshot.readBytes(at: 0, count: size) == parts.before)
        #expect(try Layers.contents(parts.node) != parts.before)
        try snapshot.close()
        try parts.node.close()
        #expect(parts.disk.user == nil)
        #expect(blockError { () throws(BlockError) in try parts.target.flush() } == nil)
    }

    @Test func snapshotAccessRefusesWritesAndGivesUpWhatIsDiscarded() throws {
        let parts = try parts("raw")
        let access = BlockNode(
            .filter(try SnapshotAccessDriver(over: parts.node)), filename: "snapshot",
            settings: OpenSettings(readOnly: false))
        try parts.disk.write([UInt8](repeating: 2, count: 512).span.bytes, at: 0)
        #expect(try access.readBytes(at: 0, count: size) == parts.before)
        #expect(try access.status(at: 0, limit: 512).isData)
        let refusals = [
            blockError { () throws(BlockError) in try access.write([1].span.bytes, at: 0) },
            blockError { () throws(BlockError) in try access.writeZeroes(at: 0, count: 512) },
            blockError { () throws(BlockError) in try access.resize(to: 512) },
        ]
        #expect(refusals.map { $0?.kind } == [.unsupported, .unsupported, .unsupported])
        // Parts of clusters are kept.
        try access.discard(at: 1, count: 131_071)
        #expect(try access.readBytes(at: 0, count: 65536)[...] == parts.before[..<65536])
        #expect(blockError { () throws(BlockError) in try access.readBytes(at: 131_071, count: 1) } != nil)
        #expect(try access.readBytes(at: 131_072, count: 512)[...] == parts.before[131_072..<131_584])
        try parts.disk.write([UInt8](repeating: 3, count: 512).span.bytes, at: 70_000)
        #expect(try parts.target.readBytes(at: 70_000, count: 1) == [0])
        #expect(blockError { () throws(BlockError) in try SnapshotAccessDriver(over: parts.disk) } != nil)
        try access.close()
    }

    @Test func onlyTheScopeIsKept() throws {
        let scope = try DirtyBitmap(size: size, granularity: 4096)
        scope.set(65536..<65537)
        let parts = try parts("raw", scope: { _ in scope })
        let snapshot = parts.filter.snapshot()
        try parts.node.write([UInt8](repeating: 2, count: 512).span.bytes, at: 0)
        try parts.node.write([UInt8](repeating: 2, count: 512).span.bytes, at: 65536)
        #expect(try snapshot.readBytes(at: 65536, count: 65536)[...] == parts.before[65536..<131_072])
        #expect(blockError { () throws(BlockError) in try snapshot.readBytes(at: 0, count: 1) } != nil)
        #expect(try parts.target.readBytes(at: 0, count: 1) == [0])
        try parts.node.close()
    }

    @Test func theSnapshotSurvivesAShrinkingDisk() throws {
        let parts = try parts("raw")
        let snapshot = parts.filter.snapshot()
        try parts.node.resize(to: 100_000)
        try parts.node.resize(to: size * 2)
        try parts.node.write([UInt8](repeating: 9, count: 4096).span.bytes, at: size - 4096)
        #expect(try snapshot.length() == size)
        #expect(try snapshot.readBytes(at: 0, count: size) == parts.before)
        try parts.node.close()
    }

    @Test(.timeLimit(.minutes(1)), arguments: PointInTimeCopy.ErrorPolicy.allCases)
    func aSlowTargetBreaksTheWriteOrTheSnapshot(_ policy: PointInTimeCopy.ErrorPolicy) throws {
        let (pause, clock) = (PausePoint(), ManualClock())
        var options = PointInTimeCopy.Options()
        options.errorPolicy = policy
        options.timeoutNanoseconds = 5_000_000_000
        options.clock = clock
        let parts = try parts("raw", to: BackupImages(pause: pause), options)
        let snapshot = parts.filter.snapshot()
        pause.arm(count: 65536)
        let failure = Monitor<BlockError?>(nil)
        let writer = TestThread {
            let error = blockError { () throws(BlockError) in
                try parts.node.write([UInt8](repeating: 2, count: 512).span.bytes, at: 0)
            }
            failure.withLock { $0 = error }
        }
        pause.waitUntilReached()
        clock.waitForWaits(1)
        clock.advance(by: options.timeoutNanoseconds - 1)
        #expect(!writer.isEnded)
        clock.advance(by: 1)
        writer.wait()
        let breaksWrite = policy == .breakGuestWrite
        #expect(failure.withLock { $0 != nil } == breaksWrite)
        #expect(try parts.disk.readBytes(at: 0, count: 1) == [breaksWrite ? 1 : 2])
        pause.resume()
        if breaksWrite {
            try snapshot.expect(parts.before)
            // The copy went on, so that the next write need not wait.
            try parts.node.write([UInt8](repeating: 2, count: 512).span.bytes, at: 0)
            try snapshot.expect(parts.before)
        } else {
            #expect(blockError { () throws(BlockError) in try snapshot.readBytes(at: 0, count: 1) } != nil)
        }
        try parts.node.close()
    }
}

extension BlockNode {
    fileprivate func expect(_ bytes: [UInt8]) throws {
        #expect(try readBytes(at: 0, count: bytes.count) == bytes)
    }
}
