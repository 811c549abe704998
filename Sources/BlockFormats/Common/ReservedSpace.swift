import BlockCore

/// Space for tables, allocated before the data is written. On a full disk the request then fails early and
/// gives everything back; without this, the table that should refer to the written data would fail.
extension BlockNode {
    /// Ranges up to this many bytes are written instead of reserved.
    private static let writtenBytes = 64 << 10

    /// Stores zeroes with allocated space, so that a later overwrite succeeds on a full disk.
    ///
    /// - Throws: `noSpace`, `io`.
    func writeReservedZeroes(at offset: Int, count: Int) throws(BlockError) {
        guard count <= Self.writtenBytes else {
            return try writeZeroes(at: offset, count: count, flags: [])
        }
        try write(AlignedBuffer(count: count, zeroed: true).bytes, at: offset)
    }

    /// Allocates the holes in a range of this file. The contents of the range stay.
    ///
    /// - Throws: `noSpace`, `io`.
    func fillHoles(in range: Range<Int>) throws(BlockError) {
        let length = try length()
        var offset = range.lowerBound
        while offset < range.upperBound {
            let left = range.upperBound - offset
            let run =
                offset < length
                ? try status(at: offset, limit: min(left, length - offset))
                : ChainStatus(length: left, isZero: true, isData: false, isPresent: false, depth: 0)
            if run.isZero { try writeReservedZeroes(at: offset, count: run.length) }
            offset += run.length
        }
    }
}
