extension FuzzTarget {
    /// An image of these bytes in which the checksums of footers and header are right, which chance does not
    /// reach.
    @Sendable static func sealedVhd(_ bytes: [UInt8]) -> SparseBytes {
        var bytes = bytes
        let end = bytes.count - 512
        for footer in [0, end] where end >= 0 && bytes[footer...].starts(with: Array("conectix".utf8)) {
            let stated = bytes[footer + 16..<footer + 24].reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
            let header = Int(exactly: stated) ?? Int.max
            if header <= bytes.count - 1024 { seal(&bytes, header..<header + 1024, checksum: 36) }
            seal(&bytes, footer..<footer + 512, checksum: 64)
        }
        return SparseBytes(bytes)
    }

    private static func seal(_ bytes: inout [UInt8], _ range: Range<Int>, checksum: Int) {
        let place = range.lowerBound + checksum
        bytes.replaceSubrange(place..<place + 4, with: [0, 0, 0, 0])
        let sum = ~bytes[range].reduce(0 as UInt32) { $0 &+ UInt32($1) }
        bytes.replaceSubrange(
            place..<place + 4, with: (0..<4).map { UInt8(truncatingIfNeeded: sum >> (24 - $0 * 8)) })
    }
}
