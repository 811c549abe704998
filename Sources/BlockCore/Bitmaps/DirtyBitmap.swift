import Synchronization

/// The parts of a disk that were changed since some moment: one bit for each granule.
///
/// Memory is allocated only for parts with both set and clear bits. Thread-safe. Offsets and sizes are in
/// bytes of the disk.
public final class DirtyBitmap: Sendable {
    /// The most bits of one bitmap: 512 MiB.
    public static let maximumBits = 1 << 32

    /// The bytes of the disk for each bit; a power of two.
    public let granularity: Int
    private let state: Mutex<State>

    private struct State {
        var size: Int
        var bits: BitmapChunks
    }

    /// A clean bitmap for a disk of `size` bytes.
    ///
    /// - Throws: `limit` for more than ``maximumBits`` bits; `invalidArgument` when `granularity` is no power
    ///   of two.
    public init(size: Int, granularity: Int) throws(BlockError) {
        self.granularity = granularity
        let bits = try Self.bitCount(size: size, granularity: granularity)
        state = Mutex(State(size: size, bits: BitmapChunks(count: bits)))
    }

    private init(granularity: Int, state: State) {
        self.granularity = granularity
        self.state = Mutex(state)
    }

    /// The number of bits in a bitmap of that granularity.
    ///
    /// - Throws: as ``init(size:granularity:)``.
    public static func bitCount(size: Int, granularity: Int) throws(BlockError) -> Int {
        guard granularity.isPowerOfTwo, size >= 0 else {
            throw BlockError(.invalidArgument, "The granularity of a bitmap must be a power of two")
        }
        let bits = size / granularity + (size % granularity == 0 ? 0 : 1)
        guard bits <= maximumBits else {
            throw BlockError(.limit, "The bitmap would have too many bits; use a larger granularity")
        }
        return bits
    }

    /// The size of the disk, in bytes.
    public var size: Int { state.withLock { $0.size } }
    /// The number of set bits.
    public var dirtyCount: Int { state.withLock { $0.bits.ones } }
    /// The size of the bits in stored form, in bytes.
    public var byteCount: Int { state.withLock { $0.bits.byteCount } }

    /// An independent bitmap with the same bits.
    public func copy() -> DirtyBitmap {
        DirtyBitmap(granularity: granularity, state: state.withLock { $0 })
    }

    // MARK: Bits

    /// Marks every granule with a byte in `range`.
    ///
    /// Bytes past the end of the disk are left out.
    public func set(_ range: Range<Int>) {
        let shift = granularity.trailingZeroBitCount
        state.withLock { state in
            let end = min(range.upperBound, state.size)
            guard range.lowerBound < end else { return }
            state.bits.set(range.lowerBound >> shift..<((end - 1) >> shift) + 1, to: true)
        }
    }

    /// Clears every granule that is wholly in `range`; the last one of the disk may be short.
    public func clear(_ range: Range<Int>) {
        let shift = granularity.trailingZeroBitCount
        let granularity = granularity
        state.withLock { state in
            let lower = (range.lowerBound.roundedUp(to: granularity) ?? state.size) >> shift
            let upper = range.upperBound >= state.size ? state.bits.count : range.upperBound >> shift
            if lower < upper { state.bits.set(lower..<upper, to: false) }
        }
    }

    /// Clears all bits.
    public func clearAll() {
        state.withLock { state in state.bits = BitmapChunks(count: state.bits.count) }
    }

    /// Whether the byte at `offset`, inside the disk, is marked.
    public func contains(_ offset: Int) -> Bool {
        state.withLock { state in
            offset >= 0 && offset < state.size && state.bits.contains(offset / granularity)
        }
    }

    /// The first run of marked bytes at or behind `offset`, cut at the end of the disk; `nil` for none.
    ///
    /// - Complexity: O(*bits* / 64) up to the end of the run.
    public func nextRun(from offset: Int) -> Range<Int>? {
        let shift = granularity.trailingZeroBitCount
        return state.withLock { state in
            guard let first = state.bits.first(true, from: max(0, offset) >> shift) else { return nil }
            let end = state.bits.first(false, from: first) ?? state.bits.count
            let lower = max(offset, first << shift)
            let upper = end == state.bits.count ? state.size : end << shift
            return lower..<max(lower, upper)
        }
    }

    /// The run of equal bits at `offset`, which is inside the disk, at most `limit` bytes long.
    ///
    /// - Complexity: O(*bits of the run* / 64).
    public func run(at offset: Int, limit: Int) -> (isMarked: Bool, length: Int) {
        let shift = granularity.trailingZeroBitCount
        return state.withLock { state in
            let end = min(state.size, offset + min(max(limit, 1), Int.max - offset))
            let bit = offset >> shift
            guard offset >= 0, offset < end, bit < state.bits.count else { return (false, max(limit, 1)) }
            let isMarked = state.bits.contains(bit)
            let next = state.bits.first(!isMarked, from: bit, before: ((end - 1) >> shift) + 1)
            return (isMarked, next.map { ($0 << shift) - offset } ?? end - offset)
        }
    }

    /// Whether any byte of `range` is marked.
    ///
    /// - Complexity: O(*bits of the range* / 64).
    public func hasMarks(in range: Range<Int>) -> Bool {
        let shift = granularity.trailingZeroBitCount
        return state.withLock { state in
            let end = min(range.upperBound, state.size)
            guard range.lowerBound < end else { return false }
            let last = (end - 1) >> shift
            return state.bits.first(true, from: range.lowerBound >> shift, before: last + 1) != nil
        }
    }

    /// All runs of marked bytes, in order.
    ///
    /// - Complexity: O(*runs*) in memory.
    public var runs: [Range<Int>] {
        var runs: [Range<Int>] = []
        var offset = 0
        while let run = nextRun(from: offset), !run.isEmpty {
            runs.append(run)
            offset = run.upperBound
        }
        return runs
    }

    /// Limits the memory of mixed bits from merging a bitmap with a larger granularity, in bytes.
    private static let maximumRefinedBytes = 64 << 20

    /// Marks all bytes that `other` marks.
    ///
    /// `other` may have any granularity.
    ///
    /// - Throws: `invalidArgument` for a disk of another size; `limit` when the bits of a larger granularity
    ///   would take more than 64 MiB here.
    /// - Complexity: O(*bits* / 64) for equal granularities, else one ``set(_:)`` for each run of `other`.
    public func merge(_ other: DirtyBitmap) throws(BlockError) {
        // A copy, so that no two locks are held at once.
        let theirs = other.state.withLock { $0 }
        let mine = size
        guard theirs.size == mine else {
            throw BlockError(
                .invalidArgument,
                "Bitmaps are of different sizes (destination size is \(mine), source size is \(theirs.size)) "
                    + "and can't be merged")
        }
        if other.granularity == granularity {
            return state.withLock { state in state.bits.formUnion(theirs.bits) }
        }
        let copy = DirtyBitmap(granularity: other.granularity, state: theirs)
        try checkRefining(copy)
        var offset = 0
        while let run = copy.nextRun(from: offset), !run.isEmpty {
            set(run)
            offset = run.upperBound
        }
    }

    /// Refuses a merge that takes too much memory: each chunk in which a run begins or ends takes some.
    private func checkRefining(_ other: DirtyBitmap) throws(BlockError) {
        guard other.granularity > granularity else { return }
        let shift = granularity.trailingZeroBitCount
        var mixed = 0
        var last = -1
        var offset = 0
        while let run = other.nextRun(from: offset), !run.isEmpty {
            for bit in [run.lowerBound >> shift, run.upperBound >> shift]
            where bit % BitmapChunks.bitsPerChunk != 0 && bit / BitmapChunks.bitsPerChunk != last {
                last = bit / BitmapChunks.bitsPerChunk
                mixed += 1
            }
            offset = run.upperBound
        }
        guard mixed * BitmapChunks.bitsPerChunk / 8 <= Self.maximumRefinedBytes else {
            throw BlockError(
                .limit,
                "The merged bitmap would take more than \(Self.maximumRefinedBytes >> 20) MiB; "
                    + "use a larger granularity")
        }
    }

    /// Takes over all bits of `other`, which has the same granularity.
    ///
    /// - Throws: `invalidArgument` for a disk of another size or another granularity; nothing is changed
    ///   then.
    public func replace(with other: DirtyBitmap) throws(BlockError) {
        let theirs = other.state.withLock { $0 }
        try state.withLock { state throws(BlockError) in
            guard state.size == theirs.size, granularity == other.granularity else {
                throw BlockError(.invalidArgument, "The bitmaps are of different sizes or granularities")
            }
            state = theirs
        }
    }

    /// Changes the size of the disk, in bytes.
    ///
    /// Added bits are clear.
    ///
    /// - Throws: `limit` for more than ``maximumBits`` bits; nothing is changed then.
    public func resize(to size: Int) throws(BlockError) {
        let bits = try Self.bitCount(size: size, granularity: granularity)
        state.withLock { state in
            state.bits.resize(to: bits)
            state.size = size
        }
    }

    // MARK: As stored

    /// The value of all bits in a part of the stored bytes; `nil` when they differ.
    public func common(inBytes range: Range<Int>) -> Bool? {
        state.withLock { $0.bits.common(inBytes: range) }
    }

    /// The stored form: eight bits in a byte, the lowest first; zeroes past the end.
    ///
    /// - Parameter start: the first byte, a multiple of 8.
    public func copyBytes(from start: Int, into target: inout MutableRawSpan) {
        let bits = state.withLock { $0.bits }
        bits.copyBytes(from: start, into: &target)
    }

    /// Sets the bits that are set in `bytes`, a part of the stored form that begins at byte `start`, a
    /// multiple of 8.
    ///
    /// Bits past the end are left out.
    public func formUnion(bytes: RawSpan, at start: Int) {
        var words = [UInt64](repeating: 0, count: (bytes.byteCount + 7) / 8)
        for index in words.indices {
            if let word: UInt64 = bytes.littleEndian(at: index * 8) {
                words[index] = word
                continue
            }
            for step in index * 8..<bytes.byteCount {
                let byte: UInt8 = bytes.littleEndian(at: step) ?? 0
                words[index] |= UInt64(byte) << UInt64(step % 8 * 8)
            }
        }
        let all = words
        state.withLock { $0.bits.formUnion(all, at: start * 8) }
    }
}
