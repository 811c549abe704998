import BlockCore

/// Keeps the disk below as it was when the filter was opened: each part is copied to a target before it
/// changes.
///
/// Thread-safe.
///
/// Requests pass to the disk. What was kept is read with ``snapshot()``, or by `driver=snapshot-access` over
/// this filter. Changes are heard at the disk's own node, so those that do not come through the filter are
/// kept too.
///
/// `driver=copy-before-write,file.…,target.…[,bitmap.node=…,bitmap.name=…][,on-cbw-error=…][,cbw-timeout=…]`
///
/// ```swift
/// let filter = try CopyBeforeWriteDriver(over: disk, target: scratch)
/// let node = BlockNode(.filter(filter), filename: disk.filename, settings: disk.settings)
/// try node.write(bytes, at: 0)
/// let old = try filter.snapshot().readBytes(at: 0, count: 512)
/// ```
public final class CopyBeforeWriteDriver: OpenableFilter {
    public static let name = "copy-before-write"
    static let targetRole = "target"

    public let child: BlockNode
    /// The copy, whose moment was the start of the filter.
    public let copy: PointInTimeCopy

    /// Begins to keep the disk.
    ///
    /// - Parameters:
    ///   - child: a disk with a format, raw too, which the filter's node closes, as it does `target`.
    ///   - target: a writable node that is at least as large, and does not read `child`.
    ///   - scope: finds the bytes to keep, while no request is under way; `nil` keeps all.
    /// - Throws: as ``PointInTimeCopy/init(of:to:scope:options:)``; errors of `scope`.
    public init(
        over child: BlockNode, target: BlockNode,
        options: PointInTimeCopy.Options = PointInTimeCopy.Options(),
        scope: () throws(BlockError) -> DirtyBitmap? = { nil }
    ) throws(BlockError) {
        self.child = child
        copy = try child.drained { () throws(BlockError) in
            let copy = try PointInTimeCopy(of: child, to: target, scope: try scope(), options: options)
            try copy.attach()
            return copy
        }
    }

    public var children: [FilterChild] {
        [
            FilterChild(role: Self.childRole, node: child),
            FilterChild(role: Self.targetRole, node: copy.target),
        ]
    }

    /// A node that reads the disk as it was.
    ///
    /// It must be closed before the filter; closing it closes no other node.
    public func snapshot() -> BlockNode {
        BlockNode(
            .storage(SnapshotDisk(copy)), filename: child.filename, settings: OpenSettings(readOnly: true))
    }

    /// - Throws: as ``BlockNode/flush()`` of the disk. The target keeps nothing beyond the life of the
    ///   filter.
    public func flush() throws(BlockError) { try child.flush() }

    /// - Throws: nothing.
    public func close() throws(BlockError) { copy.detach() }
}

// MARK: Options
extension CopyBeforeWriteDriver {
    /// - Throws: `invalidArgument`; `notFound` for the bitmap or its node; `readOnly`; as
    ///   ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> CopyBeforeWriteDriver {
        let copyOptions = try takeCopyOptions(&options)
        let bitmap = try takeBitmap(&options)
        if request.settings.readOnly {
            throw BlockError(.readOnly, "Block node is read-only")
        }
        let child = try request.openChild(probing: true)
        let target = try request.openChild(role: targetRole, probing: true, options: &options)
        return try CopyBeforeWriteDriver(over: child, target: target, options: copyOptions) {
            () throws(BlockError) in
            try bitmap.map { (bitmap) throws(BlockError) in
                try node(named: bitmap.node, below: child).bitmapBits(named: bitmap.name)
            }
        }
    }

    private static func takeCopyOptions(
        _ options: inout OptionTree
    ) throws(BlockError) -> PointInTimeCopy.Options {
        var copyOptions = PointInTimeCopy.Options()
        copyOptions.marksZeroes = true
        if let text = options.take("on-cbw-error") {
            guard let policy = PointInTimeCopy.ErrorPolicy(rawValue: text) else {
                throw BlockError(
                    .invalidArgument, "Parameter 'on-cbw-error' does not accept value '\(text)'")
            }
            copyOptions.errorPolicy = policy
        }
        if let text = options.take("cbw-timeout") {
            guard let seconds = Int(text) else {
                throw BlockError(.invalidArgument, "Parameter 'cbw-timeout' expects integer")
            }
            guard let seconds = UInt32(exactly: seconds) else {
                throw BlockError(.invalidArgument, "Parameter 'cbw-timeout' expects uint32_t")
            }
            copyOptions.timeoutNanoseconds = Int(seconds) * 1_000_000_000
        }
        if let bytes = try options.takeSize("min-cluster-size"), bytes > 0 {
            copyOptions.minimumClusterBytes = bytes
        }
        return copyOptions
    }

    private static func takeBitmap(
        _ options: inout OptionTree
    ) throws(BlockError) -> (node: String, name: String)? {
        let (node, name) = (options.take("bitmap.node"), options.take("bitmap.name"))
        if node == nil, name == nil { return nil }
        guard let node else { throw BlockError(.invalidArgument, "Parameter 'bitmap.node' is missing") }
        guard let name else { throw BlockError(.invalidArgument, "Parameter 'bitmap.name' is missing") }
        return (node, name)
    }

    /// The node of that name among those below the filter.
    private static func node(named name: String, below child: BlockNode) throws(BlockError) -> BlockNode {
        var waiting = [child]
        while let node = waiting.popLast() {
            if node.nodeName == name { return node }
            waiting += node.children
            if let backing = node.backing { waiting.append(backing) }
        }
        throw BlockError(.notFound, "Node '\(name)' not found")
    }
}
