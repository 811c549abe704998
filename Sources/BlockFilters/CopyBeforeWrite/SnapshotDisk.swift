import BlockCore

/// The disk that a ``PointInTimeCopy`` keeps, as read-only storage that owns nothing. Thread-safe.
final class SnapshotDisk: ProtocolDriver {
    static let name = SnapshotAccessDriver.name

    private let copy: PointInTimeCopy

    init(_ copy: PointInTimeCopy) { self.copy = copy }

    func length() throws(BlockError) -> Int { copy.size }

    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let inside = max(0, min(buffer.byteCount, copy.size - offset))
        var tail = buffer.slice(inside..<buffer.byteCount)
        tail.fill()
        var part = buffer.slice(0..<inside)
        if inside > 0 { try copy.read(into: &part, at: offset) }
    }

    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) { throw refusal }
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) { throw refusal }
    func discard(at offset: Int, count: Int) throws(BlockError) { throw refusal }
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) { throw refusal }
    func flush() throws(BlockError) {}

    /// The bytes of a run of data are not in one place: the offset is that of the guest.
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        var extent = try copy.extent(at: offset, limit: limit)
        if case .encoded = extent.status { extent.status = .data(hostOffset: offset) }
        return extent
    }

    func reopen(readOnly: Bool) throws(BlockError) { if !readOnly { throw refusal } }
    func close() {}

    private var refusal: BlockError {
        BlockError(.unsupported, "Operation not supported", path: copy.source.filename)
    }
}
