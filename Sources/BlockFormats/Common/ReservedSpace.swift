import BlockCore

/// Space for tables, taken before anything needs it: on a full disk it is the request that fails, with all
/// that it took given back, and not the table that should refer to what is already written.
extension BlockNode {
    /// Up to this many bytes are written rather than reserved.
    private static let writtenBytes = 64 << 10

    /// Stores zeroes that keep their space, so that other bytes can take their place on a full disk.
    ///
    /// - Throws: `noSpace`, `io`.
    func writeReservedZeroes(at offset: Int, count: Int) throws(BlockError) {
        guard count <= Self.writtenBytes else {
            return try writeZeroes(at: offset, count: count, flags: [])
        }
        try write(AlignedBuffer(count: count, zeroed: true).bytes, at: offset)
    }

    /// Gives the holes of a range of this file their space. What the range holds stays.
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
