/// Bits in chunks; a chunk whose bits are all equal takes no memory of its own.
///
/// A value type, without locks. Bits past ``count`` are never set.
struct BitmapChunks: Sendable {
    /// One part of the bits.
    private struct Chunk: Sendable {
        /// The number of set bits.
        var ones = 0
        /// The bits, lowest first; empty while all are equal.
        var words: [UInt64] = []
    }

    static let bitsPerChunk = 1 << 15
    private static let wordsPerChunk = bitsPerChunk / 64

    /// The number of bits.
    private(set) var count: Int
    /// The number of set bits in all chunks.
    private(set) var ones = 0
    private var chunks: [Chunk]

    init(count: Int) {
        self.count = count
        chunks = [Chunk](repeating: Chunk(), count: Self.chunkCount(count))
    }

    private static func chunkCount(_ bits: Int) -> Int { bits.dividedRoundingUp(by: bitsPerChunk) }

    /// The number of bits in a chunk: the last one may have fewer than ``bitsPerChunk``.
    private func size(of chunk: Int) -> Int {
        min(Self.bitsPerChunk, count - chunk * Self.bitsPerChunk)
    }

    func contains(_ bit: Int) -> Bool {
        let chunk = bit / Self.bitsPerChunk
        if chunks[chunk].words.isEmpty { return chunks[chunk].ones > 0 }
        let inside = bit % Self.bitsPerChunk
        return chunks[chunk].words[inside >> 6] & (1 << UInt64(inside & 63)) != 0
    }

    /// Sets or clears the bits of `range`, which is inside the bitmap.
    mutating func set(_ range: Range<Int>, to value: Bool) {
        var bit = range.lowerBound
        while bit < range.upperBound {
            let chunk = bit / Self.bitsPerChunk
            let first = chunk * Self.bitsPerChunk
            let end = min(range.upperBound, first + size(of: chunk))
            set(bit - first..<end - first, of: chunk, to: value)
            bit = end
        }
    }

    private mutating func set(_ range: Range<Int>, of chunk: Int, to value: Bool) {
        let size = size(of: chunk)
        let alike = value ? size : 0
        if chunks[chunk].ones == alike { return }
        if range.count == size { return settle(chunk, ones: alike) }
        spread(chunk)
        var changed = 0
        var bit = range.lowerBound
        while bit < range.upperBound {
            let end = min(range.upperBound, (bit | 63) + 1)
            let mask = (UInt64.max >> UInt64(64 - (end - bit))) << UInt64(bit & 63)
            let old = chunks[chunk].words[bit >> 6]
            changed += (value ? mask & ~old : mask & old).nonzeroBitCount
            chunks[chunk].words[bit >> 6] = value ? old | mask : old & ~mask
            bit = end
        }
        settle(chunk, ones: chunks[chunk].ones + (value ? changed : -changed))
    }

    /// Allocates a chunk's words, filled with its bits.
    private mutating func spread(_ chunk: Int) {
        guard chunks[chunk].words.isEmpty else { return }
        chunks[chunk].words = [UInt64](repeating: 0, count: Self.wordsPerChunk)
        guard chunks[chunk].ones > 0 else { return }
        let size = size(of: chunk)
        for word in 0..<size >> 6 { chunks[chunk].words[word] = .max }
        if size & 63 != 0 { chunks[chunk].words[size >> 6] = (1 << UInt64(size & 63)) - 1 }
    }

    /// Sets the number of set bits of a chunk, and frees its words when all bits are equal.
    private mutating func settle(_ chunk: Int, ones: Int) {
        self.ones += ones - chunks[chunk].ones
        chunks[chunk].ones = ones
        if ones == 0 || ones == size(of: chunk) { chunks[chunk].words = [] }
    }

    /// The first bit from `start` on, before `limit`, that is set (or clear); `nil` when there is none.
    func first(_ value: Bool, from start: Int, before limit: Int = .max) -> Int? {
        var bit = start
        let end = min(count, limit)
        while bit < end {
            let chunk = bit / Self.bitsPerChunk
            let next = (chunk + 1) * Self.bitsPerChunk
            if chunks[chunk].words.isEmpty {
                if (chunks[chunk].ones > 0) == value { return bit }
            } else if let found = first(value, from: bit - chunk * Self.bitsPerChunk, in: chunk) {
                let place = chunk * Self.bitsPerChunk + found
                return place < end ? place : nil
            }
            bit = next
        }
        return nil
    }

    private func first(_ value: Bool, from start: Int, in chunk: Int) -> Int? {
        let size = size(of: chunk)
        var word = start >> 6
        var mask = UInt64.max << UInt64(start & 63)
        while word << 6 < size {
            let bits = (value ? chunks[chunk].words[word] : ~chunks[chunk].words[word]) & mask
            if bits != 0 {
                let found = word << 6 + bits.trailingZeroBitCount
                return found < size ? found : nil
            }
            mask = .max
            word += 1
        }
        return nil
    }

    /// Sets every bit that is set in `other`, which has the same number of bits.
    mutating func formUnion(_ other: BitmapChunks) {
        for chunk in chunks.indices where other.chunks[chunk].ones > 0 {
            let size = size(of: chunk)
            if other.chunks[chunk].words.isEmpty {
                settle(chunk, ones: size)
            } else if chunks[chunk].ones < size {
                unite(chunk, other.chunks[chunk].words)
            }
        }
    }

    private mutating func unite(_ chunk: Int, _ words: [UInt64]) {
        spread(chunk)
        var ones = 0
        for word in words.indices {
            chunks[chunk].words[word] |= words[word]
            ones += chunks[chunk].words[word].nonzeroBitCount
        }
        settle(chunk, ones: ones)
    }

    /// Changes the number of bits; new ones are clear.
    mutating func resize(to newCount: Int) {
        if newCount < count {
            set(newCount..<count, to: false)
        } else if count % Self.bitsPerChunk != 0, let last = chunks.indices.last, chunks[last].ones > 0 {
            // The chunk was full; the bits added to it are clear.
            spread(last)
        }
        let chunkCount = Self.chunkCount(newCount)
        if chunkCount < chunks.count { chunks.removeLast(chunks.count - chunkCount) }
        count = newCount
        chunks += [Chunk](repeating: Chunk(), count: chunkCount - chunks.count)
        if let last = chunks.indices.last { settle(last, ones: chunks[last].ones) }
    }

    // MARK: As bytes

    /// The size of the bits in bytes: eight bits in each, the lowest first.
    var byteCount: Int { (count + 7) / 8 }

    /// The value of all bits in these bytes; `nil` when they differ.
    func common(inBytes range: Range<Int>) -> Bool? {
        let bits = range.lowerBound * 8..<min(range.upperBound * 8, count)
        guard !bits.isEmpty else { return false }
        let value = contains(bits.lowerBound)
        guard let other = first(!value, from: bits.lowerBound), other < bits.upperBound else { return value }
        return nil
    }

    /// Copies the bytes from `start` on into `target`; zeroes past the end. `start` is a multiple of 8.
    func copyBytes(from start: Int, into target: inout MutableRawSpan) {
        target.fill()
        let end = min(start + target.byteCount, byteCount)
        var byte = start
        while byte < end {
            let word = word(at: byte)
            for step in 0..<min(8, end - byte) {
                target.storeBytes(
                    of: UInt8(truncatingIfNeeded: word >> UInt64(step * 8)),
                    toByteOffset: byte - start + step, as: UInt8.self)
            }
            byte += 8
        }
    }

    /// The 64 bits of the eight bytes at `byte`.
    private func word(at byte: Int) -> UInt64 {
        let chunk = byte * 8 / Self.bitsPerChunk
        let first = byte * 8 - chunk * Self.bitsPerChunk
        if !chunks[chunk].words.isEmpty { return chunks[chunk].words[first >> 6] }
        let left = size(of: chunk) - first
        guard chunks[chunk].ones > 0, left > 0 else { return 0 }
        return left >= 64 ? .max : (1 << UInt64(left)) - 1
    }

    /// Sets the bits that are set in `words`, of which the lowest is bit `start` (a multiple of 64). Bits
    /// past the end are left out.
    mutating func formUnion(_ words: [UInt64], at start: Int) {
        for (index, word) in words.enumerated() where word != 0 {
            let first = start + index * 64
            guard first < count else { return }
            let mask = count - first < 64 ? (1 << UInt64(count - first)) - 1 : UInt64.max
            if word & mask != 0 { unite(word & mask, at: first) }
        }
    }

    private mutating func unite(_ bits: UInt64, at first: Int) {
        let chunk = first / Self.bitsPerChunk
        guard chunks[chunk].ones < size(of: chunk) else { return }
        spread(chunk)
        let index = (first % Self.bitsPerChunk) >> 6
        let added = (bits & ~chunks[chunk].words[index]).nonzeroBitCount
        chunks[chunk].words[index] |= bits
        settle(chunk, ones: chunks[chunk].ones + added)
    }
}
