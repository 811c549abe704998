import BlockCore

/// Shows the disk that a copy-before-write filter keeps.
///
/// Thread-safe.
///
/// Writes fail. A discard gives clusters up: they are not kept and cannot be read any more.
///
/// `driver=snapshot-access,file.driver=copy-before-write,file.file.…,file.target.…`
public final class SnapshotAccessDriver: OpenableFilter {
    public static let name = "snapshot-access"

    /// The node of the copy-before-write filter.
    public let child: BlockNode
    private let copy: PointInTimeCopy

    /// - Parameter child: the node of a ``CopyBeforeWriteDriver``, which the filter's node closes.
    /// - Throws: `unsupported` for any other node.
    public init(over child: BlockNode) throws(BlockError) {
        guard case .filter(let driver) = child.layer, let filter = driver as? CopyBeforeWriteDriver else {
            throw BlockError(
                .unsupported,
                "Node '\(child.filename)' gives no access to a snapshot: "
                    + "it is no \(CopyBeforeWriteDriver.name) filter", path: child.filename)
        }
        self.child = child
        copy = filter.copy
    }

    /// - Throws: `unsupported` as ``init(over:)``; as ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> SnapshotAccessDriver {
        try SnapshotAccessDriver(over: try request.openChild())
    }

    public var showsChild: Bool { false }
    public var requestAlignment: Int { 1 }

    /// - Throws: nothing.
    public func length() throws(BlockError) -> Int { copy.size }

    /// - Throws: as ``PointInTimeCopy/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try copy.read(into: &buffer, at: offset)
    }

    /// - Throws: `unsupported`.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) { throw refusal }

    /// - Throws: `unsupported`.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) { throw refusal }

    /// - Throws: as ``PointInTimeCopy/giveUp(_:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard offset >= 0, count >= 0, !overflow else {
            throw BlockError(.io, "Input/output error", path: child.filename, offset: offset)
        }
        try copy.giveUp(offset..<end)
    }

    /// - Throws: `unsupported`.
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) { throw refusal }

    /// - Throws: as ``PointInTimeCopy/extent(at:limit:)``.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try copy.extent(at: offset, limit: limit)
    }

    private var refusal: BlockError {
        BlockError(.unsupported, "Operation not supported", path: child.filename)
    }
}
