import BlockCore

/// Stores in the image what is read from its backing files: QEMU's `copy-on-read`.
///
/// Thread-safe.
///
/// `driver=copy-on-read,file.driver=qcow2,file.file.filename=…`, with `bottom=NODE-NAME` for the lowest layer
/// whose bytes are stored. Each read first copies the units that it touches and that the image lacks, with
/// these units to itself; so the node below must be writable.
public final class CopyOnReadDriver: OpenableFilter {
    public static let name = "copy-on-read"
    public static let optionsInName: [String]? = []

    public let child: BlockNode
    /// The lowest layer whose bytes are copied; `nil` for all layers.
    private let bottom: BlockNode?

    /// - Parameter bottom: a node of the chain of `child`; `nil` to copy from all layers.
    public init(over child: BlockNode, bottom: BlockNode? = nil) {
        self.child = child
        self.bottom = bottom
    }

    /// - Throws: `readOnly`; `invalidArgument` for a `bottom` that is no layer of the chain; as
    ///   ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> CopyOnReadDriver {
        let child = try request.openChild()
        if request.settings.readOnly {
            throw BlockError(.readOnly, "Block node is read-only", path: child.filename)
        }
        let bottom = try options.take("bottom").map { name throws(BlockError) in
            try layer(named: name, of: child)
        }
        return CopyOnReadDriver(over: child, bottom: bottom)
    }

    private static func layer(named name: String, of child: BlockNode) throws(BlockError) -> BlockNode {
        let layers = child.chain
        if let layer = layers.first(where: { $0.unfiltered.nodeName == name }) { return layer }
        let isFilter = layers.contains { $0.nodeName == name }
        throw BlockError(
            .invalidArgument,
            isFilter ? "Bottom node '\(name)' is a filter" : "Bottom node '\(name)' not found",
            path: child.filename)
    }

    /// - Throws: errors of copying; as ``BlockNode/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let range = try Range.request(offset, buffer.byteCount)
        if !child.isReadOnly { try copy(range) }
        try child.read(into: &buffer, at: offset)
    }

    private func copy(_ range: Range<Int>) throws(BlockError) {
        guard let bottom else { return try child.copyUp(range) }
        let end = min(range.upperBound, try child.length())
        var position = range.lowerBound
        while position < end {
            let own = try child.layerExtent(at: position, limit: end - position)
            var count = own.length
            if own.status == .unallocated, child.unfiltered !== bottom.unfiltered {
                let below = try statusBelow(position, count, bottom)
                count = below.count
                if below.isPresent { try child.copyUp(position..<position + count) }
            }
            position += count
        }
    }

    /// Whether a layer from below the child down to `bottom` holds the run at `offset`.
    private func statusBelow(
        _ offset: Int, _ limit: Int, _ bottom: BlockNode
    ) throws(BlockError) -> (count: Int, isPresent: Bool) {
        guard let next = child.backing else { return (limit, false) }
        let length = try next.length()
        guard offset < length else { return (limit, false) }
        let run = try next.status(
            at: offset, limit: min(limit, length - offset), above: bottom.backing)
        return (run.length, run.isPresent)
    }
}
