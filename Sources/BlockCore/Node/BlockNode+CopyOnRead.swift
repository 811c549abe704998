import Synchronization

/// Copy-on-read: bytes that reads find in the backing node are stored in this layer.
///
/// The users of copy-on-read are counted: a job that turns it on and off leaves that of ``OpenSettings``
/// alone.
extension BlockNode {
    /// Whether reads copy bytes of the backing node into this layer.
    public var copiesOnRead: Bool { unfiltered.copyOnReadUsers.load(ordering: .relaxed) > 0 }

    /// Makes all reads that begin from now on copy bytes of the backing node into this layer, until as many
    /// calls of ``disableCopyOnRead()`` follow.
    ///
    /// - Throws: `readOnly`; `unsupported` for a node without a format.
    public func enableCopyOnRead() throws(BlockError) {
        let node = unfiltered
        guard node.format != nil else {
            throw BlockError(
                .unsupported, "Driver '\(node.driverName)' of '\(filename)' has no backing file",
                path: filename)
        }
        try node.checkWritable()
        node.copyOnReadUsers.add(1, ordering: .relaxed)
    }

    /// Takes one ``enableCopyOnRead()`` back.
    ///
    /// After the last one no read copies any more: it waits for those under way. A call too many changes
    /// nothing.
    public func disableCopyOnRead() {
        let node = unfiltered
        let ticket = node.acquireAll()
        defer { node.requests.releaseAll(ticket) }
        guard node.copyOnReadUsers.load(ordering: .relaxed) > 0 else { return }
        node.copyOnReadUsers.subtract(1, ordering: .relaxed)
    }

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
        guard withZeroes || copiesOnRead, !isReadOnly, whole.upperBound <= driver.virtualSize else { return }
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
