import BlockCore

/// Copies data from a node's backing chain into the node, then drops its backing reference or moves it to a
/// base further down.
///
/// When the process is killed at any moment, the image reads as before, and a second run skips the clusters
/// that the first one has copied. Zeroes stay holes or zero clusters. While the job runs, nobody else may
/// write to the node.
public struct StreamJob: BlockJob {
    /// The job's name in the message that a node is in use.
    public static let name = "stream"

    private let node: BlockNode
    private let base: BlockNode?
    private let baseName: String?
    private let speed: Int

    /// - Parameters:
    ///     - node: the image that gets the data; writable.
    ///     - base: the node of its chain that becomes its backing node; `nil` leaves the image without one.
    ///     - baseName: the file name that the image states for the base; `nil` for the name that the chain
    ///     uses.
    ///     - speed: the limit in bytes a second; 0 keeps the limit of the job's control.
    public init(node: BlockNode, base: BlockNode? = nil, baseName: String? = nil, speed: Int = 0) {
        self.node = node
        self.base = base
        self.baseName = baseName
        self.speed = speed
    }

    /// - Throws: `invalidArgument` when `base` is not below the node; `unsupported` when the format has no
    ///   backing files; `busy` when another job uses the node; `cancelled`; what reading and writing fail
    ///   with.
    public func run(_ control: JobControl) throws(BlockError) {
        let driver = try LayerCopy.rebasable(node)
        let reference = try newReference()
        if speed > 0 { control.setSpeed(speed) }
        try LayerCopy.using([node], by: Self.name) { () throws(BlockError) in
            control.setTotal(try node.length())
            try LayerCopy.keepingIdentity(of: node) { () throws(BlockError) in
                if node.backing !== base { try pull(control) }
                // The copied data has to be durable before the image drops its reference to the layers below.
                try node.flush()
                if driver.backing != reference { try driver.changeBacking(to: reference) }
            }
            if node.backing !== base { try LayerCopy.replaceBacking(of: node, with: base) }
        }
    }

    private func pull(_ control: JobControl) throws(BlockError) {
        let unit = LayerCopy.unitBytes(node)
        let sharer = control.hasSpeedLimit ? nil : SpaceSharer(try SourceDisk([node]), node)
        let cursor = RunCursor(
            end: try node.length(), unit: unit, look: RunCursor.sharing(sharer, classifier))
        let cutter = ChunkCutter(cursor, maximumCopyBytes: LayerCopy.chunkBytes)
        let work = CopyWork(
            read: LayerCopy.reader(node), scanner: ZeroScanner(granularity: unit, sparseBytes: unit),
            writer: PieceWriter(node: node, zeroing: base == nil ? .marked : .inThisLayer), sharer: sharer,
            bufferBytes: cutter.bufferBytes, writeback: Writeback(of: node))
        try ChunkPipeline(cutter: cutter, work: work, workers: LayerCopy.workers).run(control)
    }

    /// Copies the data of the layers between the node and the base. Without a base all other runs read as
    /// zeroes in the end.
    private var classifier: RunCursor.Look {
        let (node, base) = (node, base)
        return { (offset, limit) throws(BlockError) in
            let own = try node.layerExtent(at: offset, limit: limit)
            guard own.status == .unallocated else { return (.skip, own.length) }
            let status = try node.status(at: offset, limit: own.length, above: base)
            if !status.isPresent { return (.skip, status.length) }
            // Zeroes of a layer have to be stored; zeroes behind the end of a short layer only where a base
            // stays below.
            if status.isZero { return (base == nil && status.isPastBacking ? .skip : .zero, status.length) }
            return (.copy, status.length)
        }
    }

    /// The backing file that the image is going to state.
    private func newReference() throws(BlockError) -> BackingReference? {
        guard let base else { return nil }
        let chain = node.chain
        guard let index = chain.firstIndex(where: { $0 === base }), index > 0 else {
            throw BlockError(
                .invalidArgument, "'\(base.filename)' is not in the backing chain of '\(node.filename)'",
                path: node.filename)
        }
        let name = baseName ?? Self.name(of: base, from: chain[index - 1], for: node)
        return BackingReference(filename: name, format: base.unfiltered.driverName)
    }

    /// The name that the layer above `base` states, if that names the same file from the folder of `node`.
    private static func name(of base: BlockNode, from above: BlockNode, for node: BlockNode) -> String {
        guard let stated = above.unfiltered.format?.backing?.filename else { return base.filename }
        let here = FileNames.resolve(stated, relativeTo: node.filename)
        let there = FileNames.resolve(stated, relativeTo: above.filename)
        return here == there ? stated : FileNames.relative(there, from: node.filename)
    }
}
