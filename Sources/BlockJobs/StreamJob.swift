import BlockCore

/// Copies data from a node's backing chain into the node, then drops its backing reference or moves it to a
/// base further down.
///
/// When the process is killed at any moment, the image reads as before, and a second run skips the clusters
/// that the first one has copied. Zeroes stay holes or zero clusters. The guest may write to the node
/// meanwhile: what it has written is never copied over. The layers below must not change.
public struct StreamJob: BlockJob {
    /// The job's name, in lists and in messages about a node in use.
    public static let name = "stream"

    private let node: BlockNode
    private let base: BlockNode?
    private let baseName: String?
    public let speed: Int

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

    /// The node and the layers between it and the base, which the job drops.
    public var nodes: [BlockNode] { [node] + node.chain.dropFirst().prefix { $0 !== base } }

    /// - Throws: `invalidArgument` when `base` is not below the node; `unsupported` when the format has no
    ///   backing files; `cancelled`; what reading and writing fail with.
    public func work(_ control: JobControl) throws(BlockError) {
        let driver = try LayerCopy.rebasable(node)
        let reference = try base.map { base throws(BlockError) in
            try LayerCopy.reference(to: base, for: node, name: baseName)
        }
        control.setTotal(try node.length())
        // A layer in the middle of a chain is read-only but for this job.
        try LayerCopy.writing([node]) { () throws(BlockError) in
            try IdentityKeeper.keeping(node) { () throws(BlockError) in
                if node.backing !== base { try pull(control) }
                // The copied data has to be durable before the image drops its reference to the layers below.
                try node.flush()
                if driver.backing != reference { try driver.changeBacking(to: reference) }
            }
        }
        if node.backing !== base { try LayerCopy.replaceBacking(of: node, with: base) }
    }

    private func pull(_ control: JobControl) throws(BlockError) {
        // Below the filters, as the range that a step holds is: a filter's own requests must not come
        // between.
        let node = node.unfiltered
        let unit = LayerCopy.unitBytes(node)
        let sharer = control.hasSpeedLimit ? nil : SpaceSharer(try SourceDisk([node]), node)
        let cursor = RunCursor(
            end: try node.length(), unit: unit, look: RunCursor.sharing(sharer, classifier))
        let cutter = ChunkCutter(cursor, maximumCopyBytes: LayerCopy.chunkBytes)
        let work = CopyWork(
            read: LayerCopy.reader(node), scanner: ZeroScanner(granularity: unit, sparseBytes: unit),
            writer: PieceWriter(node: node, zeroing: base == nil ? .marked : .inThisLayer), sharer: sharer,
            bufferBytes: cutter.bufferBytes, vacant: node, writeback: Writeback(of: node))
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
}
