import BlockCore
import BlockTestSupport
import Testing

/// Dirty bitmaps in memory.
@Suite struct NodeBitmapTests {
    private let images = TestImages()
    private let size = 1 << 20

    private func disk() throws -> BlockNode {
        try images.create("disk", size: size)
        return try images.open("disk")
    }

    private func write(_ node: BlockNode, _ range: Range<Int>) throws {
        try node.write([UInt8](repeating: 1, count: range.count).span.bytes, at: range.lowerBound)
    }

    @Test func eachChangeIsMarkedFromTheStartOn() throws {
        let node = try disk()
        try write(node, 0..<4096)
        let fine = try node.addBitmap(named: "fine", granularity: 512)
        let coarse = try node.addBitmap(named: nil)
        #expect(fine.bits.runs.isEmpty && fine.granularity == 512)
        try write(node, 5000..<5001)
        try node.writeZeroes(at: 20480, count: 4096)
        let paused = try node.addBitmap(named: "paused", granularity: 512, isEnabled: false)
        try node.discard(at: 40960, count: 4096)
        #expect(fine.bits.runs == [4608..<5120, 20480..<24576, 40960..<45056])
        #expect(fine.dirtyBytes == 512 + 8192)
        #expect(fine.nextRun(from: 5120) == 20480..<24576 && fine.nextRun(from: 45056) == nil)
        #expect(coarse.bits.contains(5000) && coarse.bits.contains(40960))
        #expect(paused.bits.runs.isEmpty)
        try paused.setEnabled(true)
        try fine.setEnabled(false)
        try write(node, 81920..<81921)
        #expect(paused.bits.runs == [81920..<82432] && !fine.bits.contains(81920))
        try fine.merge(paused)
        #expect(fine.bits.contains(81920))
        try fine.clear()
        #expect(fine.dirtyBytes == 0)
        #expect(node.memoryBitmaps.map(\.name) == ["fine", nil, "paused"])
        try node.removeBitmap(fine)
        #expect(node.memoryBitmap(named: "fine") == nil)
        #expect(blockError { () throws(BlockError) in try node.removeBitmap(fine) }?.kind == .notFound)
    }

    @Test func namesAndGranularitiesAreChecked() throws {
        let node = try disk()
        _ = try node.addBitmap(named: "a")
        let refusals: [(name: String?, granularity: Int?, message: String)] = [
            ("a", nil, "Bitmap already exists: a"), ("", nil, "Bitmap name cannot be empty"),
            ("b", 256, "Granularity must be power of 2 and at least 512"),
            ("b", 1536, "Granularity must be power of 2 and at least 512"),
            (nil, -512, "Granularity must be power of 2 and at least 512"),
        ]
        for (name, granularity, message) in refusals {
            let failure = blockError { () throws(BlockError) in
                try node.addBitmap(named: name, granularity: granularity)
            }
            #expect(failure?.message == message)
        }
        let long = String(repeating: "x", count: 1024)
        #expect(
            blockError { () throws(BlockError) in try node.addBitmap(named: long) }?.kind == .invalidArgument)
        #expect(node.memoryBitmaps.count == 1)
        let file = try #require(node.file)
        #expect(
            blockError { () throws(BlockError) in try file.addBitmap(named: "f") }?.kind == .unsupported)
    }

    private func expectBusy<Result>(_ body: () throws(BlockError) -> Result) {
        let failure = blockError(body)
        #expect(failure?.kind == .busy)
        #expect(failure?.message.hasSuffix("cannot be used: backup") == true)
    }

    @Test(arguments: [true, false])
    func aSuccessorHasWhatChangesWhileTheBitmapIsFrozen(_ abdicates: Bool) throws {
        let node = try disk()
        let bitmap = try node.addBitmap(named: "b", granularity: 4096)
        try write(node, 0..<1)
        let frozen = try bitmap.createSuccessor(for: "backup")
        try write(node, 8192..<8193)
        #expect(frozen.runs == [0..<4096] && bitmap.bits.runs == [0..<4096])
        #expect(bitmap.user == "backup")
        expectBusy { () throws(BlockError) in try bitmap.clear() }
        expectBusy { () throws(BlockError) in try bitmap.setEnabled(false) }
        expectBusy { () throws(BlockError) in try bitmap.merge(frozen) }
        expectBusy { () throws(BlockError) in try node.removeBitmap(bitmap) }
        expectBusy { () throws(BlockError) in try bitmap.createSuccessor(for: "mirror") }
        #expect(try node.bitmapStatuses().first?.isBusy == true)
        if abdicates { try bitmap.abdicate() } else { bitmap.reclaim() }
        #expect(bitmap.bits.runs == (abdicates ? [8192..<12288] : [0..<4096, 8192..<12288]))
        #expect(bitmap.user == nil)
        try write(node, 20480..<20481)
        #expect(bitmap.bits.contains(20480))
        try bitmap.clear()
    }

    @Test func itFollowsTheSizeOfTheDisk() throws {
        images.createRaw("raw", size: size)
        let node = try images.open("raw", format: "raw")
        let bitmap = try node.addBitmap(named: "b", granularity: 4096)
        try write(node, size - 1..<size)
        try node.resize(to: size / 2)
        #expect(bitmap.bits.runs.isEmpty && bitmap.bits.size == size / 2)
        // The added bytes are zeroes, which they were not before.
        try node.resize(to: size)
        #expect(bitmap.bits.runs == [size / 2..<size])
    }

    /// Whatever differs afterwards is marked.
    @Test(.timeLimit(.minutes(1)), arguments: 0..<4)
    func noChangeIsMissedAmongThreads(_ seed: Int) throws {
        let node = try disk()
        let before = try node.readBytes(at: 0, count: size)
        let bitmap = try node.addBitmap(named: "b", granularity: 512)
        let threads = (0..<4).map { index in
            TestThread { [size] in
                var random = SeededRandom(seed: UInt64(seed * 10 + index))
                for _ in 0..<30 {
                    let offset = random.number(in: 0..<size / 512 - 20) * 512
                    try node.write(random.bytes(512).span.bytes, at: offset)
                }
            }
        }
        threads.forEach { $0.wait() }
        let after = try node.readBytes(at: 0, count: size)
        var changed = 0
        for offset in stride(from: 0, to: size, by: 512) {
            let isChanged = before[offset..<offset + 512] != after[offset..<offset + 512]
            #expect(isChanged == bitmap.bits.contains(offset))
            if isChanged { changed += 1 }
        }
        #expect(changed > 60)
    }
}
