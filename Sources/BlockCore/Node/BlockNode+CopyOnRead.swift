import Synchronization

extension BlockNode {
    /// The most bytes that one step copies.
    private static let copyUpBytes = Int.mib(1)

    /// Copies the backing node's bytes that show through in `range` into this layer, in whole units.
    func copyUp(_ range: Range<Int>, _ driver: any FormatDriver) throws(BlockError) {
        guard !isReadOnly, !range.isEmpty, backing != nil else { return }
        let whole = clusters(range, driver).clamped(to: 0..<driver.virtualSize)
        let ticket = requests.acquire(whole, exclusive: true)
        defer { requests.release(ticket) }
        // The node may have been reopened or closed, or have shrunk, while the request waited.
        try checkOpen()
        guard !isReadOnly, whole.upperBound <= driver.virtualSize else { return }
        var offset = whole.lowerBound
        while offset < whole.upperBound {
            let limit = min(whole.upperBound - offset, Self.copyUpBytes)
            let extent = try driver.extent(at: offset, limit: limit)
            let count = min(max(extent.length, 1), limit)
            if extent.status == .unallocated, hasBacking(in: offset..<offset + count) {
                let buffer = AlignedBuffer(count: count)
                var bytes = buffer.mutableBytes
                try readOld(into: &bytes, at: offset)
                file?.emit(.copyOnReadWrite)
                try store(buffer.bytes, at: offset, GuestAccess(self, driver))
                needsFlush.store(true, ordering: .relaxed)
            }
            offset += count
        }
    }
}
