import Synchronization

extension BlockNode {
    /// The most bytes that one step copies.
    private static let copyUpBytes = Int.mib(1)

    /// Stores in this layer what its unallocated bytes in `range` read as: those of the backing node, or
    /// zeroes.
    ///
    /// Whole units of the format are stored. Through a filter, they are stored in the format's layer below
    /// it. A file and a read-only node stay as they are.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    public func copyUp(_ range: Range<Int>) throws(BlockError) {
        let node = unfiltered
        if let driver = node.format { try node.copyUp(range, driver, withZeroes: true) }
    }

    /// Copies the backing node's bytes that show through in `range` into this layer, in whole units.
    ///
    /// - Parameter withZeroes: whether to zero units that read as zeroes too: otherwise those without a
    ///   backing node stay unallocated, and other zeroes are stored as data.
    func copyUp(
        _ range: Range<Int>, _ driver: any FormatDriver, withZeroes: Bool = false
    ) throws(BlockError) {
        guard !isReadOnly, !range.isEmpty, withZeroes || backing != nil else { return }
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
            if extent.status == .unallocated {
                try copyRun(offset..<offset + count, GuestAccess(self, driver), withZeroes: withZeroes)
            }
            offset += count
        }
    }

    private func copyRun(
        _ run: Range<Int>, _ guest: GuestAccess, withZeroes: Bool
    ) throws(BlockError) {
        let isBacked = hasBacking(in: run)
        guard isBacked || withZeroes else { return }
        let buffer = AlignedBuffer(count: isBacked ? run.count : 0)
        if isBacked {
            var bytes = buffer.mutableBytes
            try readOld(into: &bytes, at: run.lowerBound)
        }
        file?.emit(.copyOnReadWrite)
        if withZeroes, buffer.bytes.isZero {
            try zero(run, [], guest)
        } else {
            try store(buffer.bytes, at: run.lowerBound, guest)
        }
        needsFlush.store(true, ordering: .relaxed)
    }
}
