/// The guest's bytes for an operation that has the node to itself, such as resizing: without the node's
/// bounds and tickets, through the same write engine.
///
/// Valid during the call that gets it. Offsets and counts are in bytes, also behind the end of the disk as
/// long as the format has tables for them. Thread-safe.
public struct GuestAccess: Sendable {
    let node: BlockNode
    let driver: any FormatDriver
    /// The end of the backing node's bytes, as an offset of this disk; 0 without a backing node.
    public let backingEnd: Int
    /// Whether this layer has bytes behind the end of the disk too, such as saved machine state.
    let readsBehindEnd: Bool

    /// - Parameter readsBehindEnd: whether the rest of a unit behind the end of the disk is this layer's
    ///   bytes; if not, it is zeroes.
    init(_ node: BlockNode, _ driver: any FormatDriver, readsBehindEnd: Bool = false) {
        self.node = node
        self.driver = driver
        // Saved machine state is never in the backing file.
        backingEnd = readsBehindEnd ? 0 : node.backingEnd
        self.readsBehindEnd = readsBehindEnd
    }

    /// Whether there is a backing node, of any length.
    public var hasBackingNode: Bool { node.backing != nil }

    /// Whether the backing node has bytes in `range`.
    ///
    /// If not, unallocated space reads as zeroes.
    public func hasBacking(in range: Range<Int>) -> Bool { range.lowerBound < backingEnd }

    /// Fills `buffer` with the guest's bytes from `offset` on; bytes behind the end of the disk are zeroes.
    ///
    /// - Throws: `io`, `corrupt`.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        if readsBehindEnd { return try node.readMapped(driver, into: &buffer, at: offset, ownOnly: true) }
        try node.readOld(into: &buffer, at: offset)
    }

    /// Stores `bytes` at `offset`.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try node.store(bytes, at: offset, self)
    }

    /// Makes whole units (``Clearing/zeroGranularity``) read as zeroes, as data if there is no other way.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    public func writeZeroes(in range: Range<Int>) throws(BlockError) {
        try node.clear(range, .zero(keepsSpace: false), self)
    }

    // MARK: Hiding old bytes before a disk grows

    /// Zeroes the rest of the last unit, which may hold bytes of a larger disk or show those of the backing
    /// file.
    ///
    /// - Parameter tail: bytes behind the end of the disk, in its last unit.
    /// - Throws: `io`, `noSpace`, `corrupt`.
    public func clearTail(_ tail: Range<Int>) throws(BlockError) {
        var offset = tail.lowerBound
        while offset < tail.upperBound {
            let extent = try driver.extent(at: offset, limit: tail.upperBound - offset)
            let part = offset..<offset + min(max(1, extent.length), tail.upperBound - offset)
            offset = part.upperBound
            switch extent.status {
            case .zero: continue
            case .unallocated where !hasBacking(in: part): continue
            default: try write(AlignedBuffer(count: part.count, zeroed: true).bytes, at: part.lowerBound)
            }
        }
    }

    /// Zeroes whole new units over a longer backing file, whose bytes would show through them.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    public func hideBacking(_ added: Range<Int>) throws(BlockError) {
        let unit = driver.writeGranularity
        var offset = added.lowerBound.roundedUp(to: unit) ?? added.upperBound
        while offset < added.upperBound, hasBacking(in: offset..<added.upperBound) {
            let count = min(max(unit, Self.hiddenBytes), added.upperBound - offset)
            try writeZeroes(in: offset..<offset + count)
            offset += count
        }
    }

    /// The most bytes that one step zeroes.
    private static let hiddenBytes = Int.mib(1)
}
