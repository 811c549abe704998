import BlockCore
import BlockTestSupport
import Testing

@Suite struct BlockNodeTests {
    private let images = TestImages()

    private func write(_ node: BlockNode, _ stamp: Int, _ offset: Int, _ count: Int) throws(BlockError) {
        try node.write(Pattern.bytes(stamp: stamp, at: offset, count: count).span.bytes, at: offset)
    }

    @Test func boundsOfADisk() throws {
        try images.create("disk", size: 10_000)
        let node = try images.open("disk")
        #expect(try node.length() == 10_000)
        #expect(try node.readBytes(at: 10_000, count: 0) == [])
        for (offset, count) in [(10_000, 1), (9_999, 2), (-1, 1), (0, 10_001), (Int.max, 1)] {
            #expect(
                blockError { () throws(BlockError) in try node.readBytes(at: offset, count: count) } != nil)
            let bytes = [UInt8](repeating: 1, count: count)
            #expect(
                blockError { () throws(BlockError) in try node.write(bytes.span.bytes, at: offset) } != nil)
            #expect(
                blockError { () throws(BlockError) in try node.writeZeroes(at: offset, count: count) } != nil)
            #expect(blockError { () throws(BlockError) in try node.discard(at: offset, count: count) } != nil)
        }
        #expect(blockError { () throws(BlockError) in try node.writeZeroes(at: 1, count: Int.max) } != nil)
        try node.close()
    }

    @Test func readOnlyRefusesEveryChange() throws {
        try images.create("disk", size: 8192)
        let before = images.store.files
        let node = try images.open("disk", readOnly: true)
        let bytes: [UInt8] = [1]
        let errors = [
            blockError { () throws(BlockError) in try node.write(bytes.span.bytes, at: 0) },
            blockError { () throws(BlockError) in try node.writeZeroes(at: 0, count: 1) },
            blockError { () throws(BlockError) in try node.discard(at: 0, count: 1) },
            blockError { () throws(BlockError) in try node.resize(to: 0) },
            blockError { () throws(BlockError) in try node.writeCompressed(bytes.span.bytes, at: 0) },
        ]
        #expect(errors.map { $0?.kind } == Array(repeating: .readOnly, count: 5))
        try node.close()
        #expect(images.store.files == before)
    }

    @Test func shortBackingFileReadsAsZeroesPastItsEnd() throws {
        images.createRaw("base", size: 5000)
        try images.create("disk", size: 20_000, backing: "base")
        let node = try images.open("disk")
        var expected = Pattern.bytes(stamp: 1, at: 0, count: 5000)
        expected += [UInt8](repeating: 0, count: 15_000)
        #expect(try node.readBytes(at: 0, count: 20_000) == expected)
        // Copy-on-write of the cluster in which the backing file ends.
        try write(node, 7, 4999, 2)
        expected.replaceSubrange(4999..<5001, with: Pattern.bytes(stamp: 7, at: 4999, count: 2))
        #expect(try node.readBytes(at: 0, count: 20_000) == expected)
        try node.close()
    }

    @Test func zeroesHideTheBackingFile() throws {
        images.createRaw("base", size: 16_384)
        try images.create("disk", size: 16_384, backing: "base")
        let node = try images.open("disk")
        try node.writeZeroes(at: 100, count: 9000)
        var model = ReferenceDisk(size: 16_384, backing: images.store["base"])
        model.writeZeroes(100..<9100)
        #expect(try node.readBytes(at: 0, count: 16_384) == model.read(0..<16_384))
        try node.close()
    }

    @Test func zeroesWithoutFallbackWriteNothing() throws {
        images.createRaw("base", size: 8192)
        try images.create("disk", size: 8192, backing: "base")
        let node = try images.open("disk")
        let error = blockError { () throws(BlockError) in
            try node.writeZeroes(at: 10, count: 100, flags: .noFallback)
        }
        #expect(error?.kind == .unsupported)
        #expect(try node.readBytes(at: 0, count: 8192) == Pattern.bytes(stamp: 1, at: 0, count: 8192))
        try node.close()
    }

    @Test func statisticsCountWhatWasDone() throws {
        try images.create("disk", size: 1 << 20)
        let node = try images.open("disk")
        node.statistics.measuresTime = true
        try write(node, 1, 1000, 5000)
        try write(node, 2, 500, 100)
        _ = try node.readBytes(at: 0, count: 300)
        try node.discard(at: 8192, count: 4096)
        try node.flush()
        let statistics = node.statistics
        #expect(statistics.counts(of: .write).operations == 2)
        #expect(statistics.counts(of: .write).bytes == 5100)
        #expect(statistics.counts(of: .read).bytes == 300)
        #expect(statistics.counts(of: .discard).bytes == 4096)
        #expect(statistics.counts(of: .flush).operations == 1)
        #expect(statistics.highestWrittenOffset == 6000)
        #expect(statistics.counts(of: .write).nanoseconds > 0)
        try node.close()
    }

    @Test func reopenSwitchesWriting() throws {
        try images.create("disk", size: 8192)
        let node = try images.open("disk", readOnly: true)
        #expect(node.isReadOnly)
        try node.reopen(readOnly: false)
        try write(node, 3, 0, 512)
        try node.reopen(readOnly: true)
        #expect(blockError { () throws(BlockError) in try write(node, 3, 0, 512) }?.kind == .readOnly)
        #expect(node.file?.isReadOnly == true)
        #expect(try node.readBytes(at: 0, count: 512) == Pattern.bytes(stamp: 3, at: 0, count: 512))
        try node.close()
    }

    @Test func closingTwiceDoesNothing() throws {
        try images.create("disk", size: 8192)
        let node = try images.open("disk")
        try write(node, 3, 0, 512)
        try node.close()
        let files = images.store.files
        try node.close()
        #expect(images.store.files == files)
    }

    @Test func closeReportsWhatWasLostAndClosesTheRest() throws {
        images.createRaw("base", size: 4096)
        try images.create("disk", size: 8192, backing: "base")
        let node = try images.open("disk")
        try write(node, 3, 0, 512)
        images.store.faults.arm(1, .fullFromThen)
        #expect(blockError { () throws(BlockError) in try node.close() }?.kind == .noSpace)
        images.store.faults.disarm()
        try node.close()
    }

    /// Of all that fails, the first is told, of whatever layer it is; every file is closed.
    @Test(arguments: [1, 2, 3, 4]) func closeReportsTheFirstFailure(_ number: Int) throws {
        try images.create("base", size: 8192)
        try images.create("disk", size: 8192, backing: "base")
        let node = try images.open("disk")
        try write(node, 3, 0, 512)
        try #require(node.backing).reopen(readOnly: false)
        try write(#require(node.backing), 4, 4096, 512)
        images.store.faults.arm(number, .deadFromThen)
        let error = try #require(throws: BlockError.self) { try node.close() }
        #expect(images.store.faults.failures > 1)
        #expect(!error.message.contains(FaultPlan.laterMark), "\(error)")
        #expect(images.store.openDisks == 0)
        images.store.faults.disarm()
        try node.close()
    }

    @Test func useIsExclusive() throws {
        try images.create("disk", size: 8192)
        let node = try images.open("disk")
        let (commit, stream) = (NodeUse(by: "commit"), NodeUse(by: "stream"))
        try node.beginUse(commit)
        let error = blockError { () throws(BlockError) in try node.beginUse(stream) }
        #expect(error?.kind == .busy)
        #expect(error?.message.hasSuffix("block device is in use by block job: commit") == true)
        node.endUse(stream)
        #expect(node.user == "commit")
        node.endUse(commit)
        try node.beginUse(stream)
        node.endUse(stream)
        #expect(node.user == nil)
        try node.close()
    }

    @Test(arguments: [CacheMode.writethrough, .directsync])
    func writeThroughIsDurableWithoutFlush(_ cache: CacheMode) throws {
        try images.create("disk", size: 65_536)
        let node = try images.open("disk", cache: cache)
        let before = images.store.files
        images.store.clearLog()
        try write(node, 3, 0, 512)
        try node.writeZeroes(at: 0, count: 4096)
        try write(node, 4, 8192, 4096)
        try node.discard(at: 8192, count: 4096)
        var replay = CrashReplay(files: before, log: images.store.log)
        replay.advance(to: .max)
        var random = SeededRandom(seed: 1)
        for _ in 0..<10 {
            #expect(replay.afterPowerFailure(&random) == images.store.files)
        }
        try node.close()
    }
}
