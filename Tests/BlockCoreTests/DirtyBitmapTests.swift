import BlockCore
import BlockTestSupport
import Testing

@Suite("Dirty bitmaps")
struct DirtyBitmapTests {
    @Test("bounds are rounded to granules: outward to mark, inward to unmark")
    func rounding() throws {
        let bitmap = try DirtyBitmap(size: 10_000, granularity: 512)
        bitmap.set(700..<701)
        #expect(bitmap.runs == [512..<1024])
        bitmap.set(1023..<1025)
        #expect(bitmap.runs == [512..<1536])
        bitmap.clear(513..<1536)
        #expect(bitmap.runs == [512..<1024])
        bitmap.set(9_999..<20_000)
        #expect(bitmap.runs == [512..<1024, 9728..<10_000])
        bitmap.clear(9728..<10_000)
        #expect(bitmap.dirtyCount == 1)
        bitmap.set(20_000..<30_000)
        bitmap.set(5..<5)
        #expect(bitmap.runs == [512..<1024])
        #expect(bitmap.contains(1023) && !bitmap.contains(1024) && !bitmap.contains(-1))
        bitmap.clearAll()
        #expect(bitmap.runs.isEmpty && bitmap.dirtyCount == 0)
    }

    @Test("what makes no bitmap is refused")
    func refusals() throws {
        #expect(throws: BlockError.self) { try DirtyBitmap(size: 512, granularity: 1000) }
        #expect(throws: BlockError.self) { try DirtyBitmap(size: 512, granularity: 0) }
        #expect(throws: BlockError.self) { try DirtyBitmap(size: -1, granularity: 512) }
        let limit = DirtyBitmap.maximumBits
        #expect(try DirtyBitmap.bitCount(size: limit * 512, granularity: 512) == limit)
        #expect(throws: BlockError.self) { try DirtyBitmap.bitCount(size: limit * 512 + 1, granularity: 512) }
        #expect(try DirtyBitmap(size: 0, granularity: 512).runs.isEmpty)
    }

    /// Ranges at random, with sizes around words and chunks, against an array of flags.
    @Test("marks and unmarks what an array of flags does", arguments: [1, 63, 64, 32767, 32768, 100_001])
    func model(bits: Int) throws {
        var random = SeededRandom(seed: TestEffort.seed &+ UInt64(bits))
        let bitmap = try DirtyBitmap(size: bits * 4, granularity: 4)
        var flags = [Bool](repeating: false, count: bits)
        for _ in 0..<TestEffort.scaled(200) {
            let first = random.number(in: 0..<bits)
            let longest = [1, 2, 65, 4096, bits][random.number(in: 0..<5)]
            let range = first..<min(bits, first + 1 + random.number(in: 0..<longest))
            let value = random.number(in: 0..<3) > 0
            let bytes = range.lowerBound * 4..<range.upperBound * 4
            if value { bitmap.set(bytes) } else { bitmap.clear(bytes) }
            for index in range { flags[index] = value }
            #expect(bitmap.dirtyCount == flags.count { $0 })
        }
        #expect(bitmap.runs == runs(of: flags, granularity: 4))
    }

    private func runs(of flags: [Bool], granularity: Int) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        var start: Int?
        for index in 0...flags.count {
            let isSet = index < flags.count && flags[index]
            if isSet, start == nil { start = index }
            if !isSet, let first = start {
                runs.append(first * granularity..<index * granularity)
                start = nil
            }
        }
        return runs
    }

    private func sample(bits: Int, granularity: Int, seed: UInt64) throws -> DirtyBitmap {
        var random = SeededRandom(seed: seed)
        let size = bits * granularity
        let bitmap = try DirtyBitmap(size: size, granularity: granularity)
        for _ in 0..<20 {
            let first = random.number(in: 0..<size)
            bitmap.set(first..<min(size, first + random.number(in: 1..<max(2, size / 8))))
        }
        return bitmap
    }

    @Test("the stored form gives the same bits back, in parts of any size", arguments: [8, 512, 4096, 65536])
    func storedForm(part: Int) throws {
        for bits in [1, 9, 4095, 32768, 70_001] {
            let bitmap = try sample(bits: bits, granularity: 512, seed: UInt64(bits))
            let copy = try DirtyBitmap(size: bitmap.size, granularity: 512)
            var stored: [UInt8] = []
            for start in stride(from: 0, to: bitmap.byteCount, by: part) {
                let buffer = AlignedBuffer(count: part)
                var bytes = buffer.mutableBytes
                bytes.fill(0xff)
                bitmap.copyBytes(from: start, into: &bytes)
                copy.formUnion(bytes: buffer.bytes, at: start)
                stored += buffer.bytes.array
                let alike = Set((start * 8..<min((start + part) * 8, bits)).map { bitmap.contains($0 * 512) })
                #expect(
                    bitmap.common(inBytes: start..<start + part) == (alike.count == 1 ? alike.first : nil))
            }
            #expect(copy.runs == bitmap.runs)
            for bit in 0..<bits {
                #expect((stored[bit / 8] >> UInt8(bit % 8) & 1 == 1) == bitmap.contains(bit * 512))
            }
            #expect(stored.dropFirst(bitmap.byteCount).allSatisfy { $0 == 0 })
        }
    }

    @Test("bits behind the end of the disk are left out")
    func tail() throws {
        let bitmap = try DirtyBitmap(size: 3 * 512, granularity: 512)
        let ones = [UInt8](repeating: 0xff, count: 64)
        bitmap.formUnion(bytes: ones.span.bytes, at: 0)
        #expect(bitmap.dirtyCount == 3)
        bitmap.formUnion(bytes: ones.span.bytes, at: 64)
        #expect(bitmap.runs == [0..<1536])
    }

    @Test("merging unites, whatever the granularities")
    func merging() throws {
        for (mine, theirs) in [(512, 512), (512, 65536), (65536, 512), (1024, 2048)] {
            let size = 3_000_000 / 512 * 512
            let target = try DirtyBitmap(size: size, granularity: mine)
            let source = try DirtyBitmap(size: size, granularity: theirs)
            target.set(1_000_000..<1_000_001)
            source.set(4096..<300_000)
            source.set(size - 1..<size)
            let before = target.copy()
            try target.merge(source)
            for offset in stride(from: 0, to: size, by: mine) {
                let range = offset..<min(size, offset + mine)
                let touched = source.runs.contains { $0.overlaps(range) }
                #expect(target.contains(offset) == (before.contains(offset) || touched))
            }
            #expect(before.dirtyCount == 1)
        }
        let other = try DirtyBitmap(size: 512, granularity: 512)
        #expect(throws: BlockError.self) { try DirtyBitmap(size: 1024, granularity: 512).merge(other) }
        try other.merge(other)
    }

    @Test("a disk that grows or shrinks takes its bits along", arguments: [1, 2, 3, 4, 5])
    func resizing(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let bitmap = try sample(bits: 40_000, granularity: 512, seed: UInt64(seed))
        if seed == 5 { bitmap.set(0..<bitmap.size) }
        var offsets = Set((0..<40_000).filter { bitmap.contains($0 * 512) })
        for _ in 0..<10 {
            let bits = random.number(in: 0..<100_000)
            try bitmap.resize(to: bits * 512)
            offsets = offsets.filter { $0 < bits }
            #expect(bitmap.dirtyCount == offsets.count && bitmap.size == bits * 512)
            #expect(offsets.allSatisfy { bitmap.contains($0 * 512) })
            if bits > 0 {
                bitmap.set(bits * 512 - 1..<bits * 512)
                offsets.insert(bits - 1)
            }
        }
        #expect(throws: BlockError.self) { try bitmap.resize(to: 1 << 60) }
        #expect(bitmap.dirtyCount == offsets.count)
    }

    @Test("threads that mark at once lose nothing")
    func threads() async throws {
        let bitmap = try DirtyBitmap(size: 1 << 26, granularity: 512)
        await withTaskGroup(of: Void.self) { group in
            for thread in 0..<8 {
                group.addTask {
                    for step in 0..<2000 {
                        let first = (step * 8 + thread) * 4096
                        bitmap.set(first..<first + 512)
                    }
                }
            }
        }
        #expect(bitmap.dirtyCount == 16_000)
    }
}
