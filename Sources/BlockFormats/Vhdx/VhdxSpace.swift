import BlockCore

/// The taken parts of the file, in units of 1 MiB. Not thread-safe: the driver's lock guards it.
struct VhdxSpace: Sendable {
    private var words: [UInt64] = []
    /// One past the highest unit that is taken.
    private(set) var end = 0
    /// Free units below ``end``.
    private var freeUnits = 0
    /// A count of adjacent free units that is known not to exist below ``end``.
    private var knownToLack = Int.max

    private static let unit = Vhdx.unitBytes

    /// The end of the taken space, in bytes.
    var endOffset: Int { end * Self.unit }

    private static func units(_ range: Range<Int>) -> Range<Int> {
        range.lowerBound / unit..<(range.upperBound + unit - 1) / unit
    }

    private func isTaken(_ index: Int) -> Bool {
        index / 64 < words.count && words[index / 64] & (1 << UInt64(index % 64)) != 0
    }

    /// Whether all of a range of bytes is free.
    func isFree(_ range: Range<Int>) -> Bool { !Self.units(range).contains { isTaken($0) } }

    /// Takes a range of bytes.
    mutating func take(_ range: Range<Int>) {
        let taken = Self.units(range)
        let missing = (taken.upperBound + 63) / 64 - words.count
        if missing > 0 { words += [UInt64](repeating: 0, count: missing) }
        for index in taken where !isTaken(index) {
            words[index / 64] |= 1 << UInt64(index % 64)
            if index < end { freeUnits -= 1 }
        }
        if taken.upperBound > end {
            freeUnits += max(0, taken.lowerBound - end)
            end = taken.upperBound
        }
    }

    /// Gives a range of bytes back.
    mutating func release(_ range: Range<Int>) {
        for index in Self.units(range) where isTaken(index) {
            words[index / 64] &= ~(1 << UInt64(index % 64))
            freeUnits += 1
        }
        while end > 0, !isTaken(end - 1) {
            end -= 1
            freeUnits -= 1
        }
        knownToLack = .max
    }

    /// Takes `bytes` bytes in the first gap that is large enough, or at the end of the file.
    ///
    /// - Throws: `noSpace` beyond the highest offset.
    mutating func allocate(_ bytes: Int) throws(BlockError) -> Int {
        let count = bytes / Self.unit
        let start = firstGap(count) ?? end
        guard (start + count) * Self.unit <= Vhdx.Limit.fileBytes else {
            throw BlockError(.noSpace, "The VHDX image cannot grow further")
        }
        take(start * Self.unit..<(start + count) * Self.unit)
        return start * Self.unit
    }

    private mutating func firstGap(_ count: Int) -> Int? {
        guard count <= freeUnits, count < knownToLack else { return nil }
        var run = 0
        var index = 0
        while index < end {
            if index % 64 == 0, words[index / 64] == .max {
                run = 0
                index += 64
                continue
            }
            run = isTaken(index) ? 0 : run + 1
            index += 1
            if run == count { return index - count }
        }
        knownToLack = count
        return nil
    }

    /// The first free range of bytes from `offset` on and below `length`; `nil` when there is none.
    func gap(from offset: Int, below length: Int) -> Range<Int>? {
        let last = (length + Self.unit - 1) / Self.unit
        var start = offset / Self.unit
        while start < last, isTaken(start) { start += 1 }
        var next = start
        while next < last, !isTaken(next) { next += 1 }
        return start < next ? start * Self.unit..<min(length, next * Self.unit) : nil
    }
}
