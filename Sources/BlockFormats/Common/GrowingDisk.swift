import BlockCore

/// What a disk that grows must not show, overwritten before its size changes.
extension FormatDriver where Self: ZeroWriting {
    /// The rest of the last cluster may hold bytes of a disk that was larger, or show the backing file's.
    func clearTail(_ tail: Range<Int>, _ old: any GuestReader) throws(BlockError) {
        var rest = tail
        while !rest.isEmpty {
            let extent = try extent(at: rest.lowerBound, limit: rest.count)
            let part = rest.lowerBound..<rest.lowerBound + min(rest.count, max(1, extent.length))
            rest = part.upperBound..<rest.upperBound
            switch extent.status {
            case .zero: continue
            case .unallocated where !old.hasBacking(in: part): continue
            default:
                try write(
                    AlignedBuffer(count: part.count, zeroed: true).bytes, at: part.lowerBound, old: old)
            }
        }
    }

    /// Whole new clusters in front of which there is a longer backing file get zeroes of their own.
    func hideBacking(_ added: Range<Int>, _ old: any GuestReader) throws(BlockError) {
        var offset = added.lowerBound.roundedUp(to: writeGranularity) ?? added.upperBound
        let step = max(writeGranularity, 1 << 20)
        while offset < added.upperBound, old.hasBacking(in: offset..<added.upperBound) {
            let count = min(step, added.upperBound - offset)
            if try !writeZeroes(at: offset, count: count, mayUnmap: true, old: old) {
                try write(AlignedBuffer(count: count, zeroed: true).bytes, at: offset, old: old)
            }
            offset += count
        }
    }
}
