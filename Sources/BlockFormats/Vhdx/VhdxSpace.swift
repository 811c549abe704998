import BlockCore

/// The taken parts of the file, in units of 1 MiB. Not thread-safe: the driver's lock guards it.
struct VhdxSpace: Sendable {
    private var taken = UnitBitmap(0..<Int.max)
    /// A count of adjacent free units that is known not to exist before the last taken one.
    private var knownToLack = Int.max

    private static let unit = Vhdx.unitBytes

    /// The end of the taken space, in bytes.
    var endOffset: Int { taken.end * Self.unit }

    private static func units(_ range: Range<Int>) -> Range<Int> {
        range.lowerBound / unit..<(range.upperBound + unit - 1) / unit
    }

    /// Whether all of a range of bytes is free.
    func isFree(_ range: Range<Int>) -> Bool { !taken.containsAny(of: Self.units(range)) }

    /// Takes a range of bytes.
    mutating func take(_ range: Range<Int>) { taken.insert(Self.units(range)) }

    /// Gives a range of bytes back.
    mutating func release(_ range: Range<Int>) {
        taken.remove(Self.units(range))
        knownToLack = .max
    }

    /// Takes `bytes` bytes in the first gap that is large enough, or at the end of the file.
    ///
    /// - Throws: `noSpace` beyond the highest offset.
    mutating func allocate(_ bytes: Int) throws(BlockError) -> Int {
        let count = bytes / Self.unit
        let start = firstGap(count) ?? taken.end
        guard (start + count) * Self.unit <= Vhdx.Limit.fileBytes else {
            throw BlockError(.noSpace, "The VHDX image cannot grow further")
        }
        taken.insert(start..<start + count)
        return start * Self.unit
    }

    private mutating func firstGap(_ count: Int) -> Int? {
        guard count <= taken.end - taken.usedCount, count < knownToLack else { return nil }
        if let start = taken.firstUnused(count, from: 0), start < taken.end { return start }
        knownToLack = count
        return nil
    }

    /// The first free range of bytes from `offset` on and below `length`; `nil` when there is none.
    func gap(from offset: Int, below length: Int) -> Range<Int>? {
        guard let start = taken.firstUnused(from: offset / Self.unit), start * Self.unit < length else {
            return nil
        }
        let end = taken.firstUsed(from: start).map { $0 * Self.unit } ?? length
        return start * Self.unit..<min(length, end)
    }
}
