import BlockCore

/// Pulls into a node what it lacks from its backing chain, then drops or moves its backing reference.
///
/// Killed at any moment the image reads as before, and running the job again goes on where it stopped: what
/// was pulled is allocated. Zeroes stay holes or zero clusters. Nobody else may write to the node meanwhile.
public struct StreamJob: BlockJob {
    public static let name = "stream"

    private let node: BlockNode
    private let base: BlockNode?
    private let baseName: String?
    private let speed: Int

    /// - Parameters:
    ///   - node: the image that is filled; writable.
    ///   - base: the node of its chain that stays below it; `nil` makes the image stand alone.
    ///   - baseName: how the image names its backing file then; else the name by which the chain knows it.
    ///   - speed: bytes a second; 0 leaves the control's limit alone.
    public init(node: BlockNode, base: BlockNode? = nil, baseName: String? = nil, speed: Int = 0) {
        self.node = node
        self.base = base
        self.baseName = baseName
        self.speed = speed
    }

    /// - Throws: `invalidArgument` when `base` is not below the node; `unsupported`; `busy`; `cancelled`.
    public func run(_ control: JobControl) throws(BlockError) {
        let driver = try LayerCopy.rebasable(node)
        let reference = try newReference()
        if speed > 0 { control.setSpeed(speed) }
        try LayerCopy.using([node], by: Self.name) { () throws(BlockError) in
            control.setTotal(try node.length())
            try LayerCopy.keepingIdentity(of: node) { () throws(BlockError) in
                if node.backing !== base { try pull(control) }
                // What was pulled has to be durable before the image stops asking the layers below.
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

    /// Copies what layers between the node and the base have. Without a base what is left reads as zeroes.
    private var classifier: RunCursor.Look {
        let (node, base) = (node, base)
        return { (offset, limit) throws(BlockError) in
            let own = try node.layerExtent(at: offset, limit: limit)
            guard own.status == .unallocated else { return (.skip, own.length) }
            let status = try node.status(at: offset, limit: own.length, above: base)
            if !status.isPresent { return (.skip, status.length) }
            // Zeroes of a layer that goes stay zeroes; those behind a short one were never written.
            if status.isZero { return (base == nil && status.isPastBacking ? .skip : .zero, status.length) }
            return (.copy, status.length)
        }
    }

    /// What the image will state as its backing file.
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

    /// The name that the layer above `base` uses, if it means the same from where `node` is.
    private static func name(of base: BlockNode, from above: BlockNode, for node: BlockNode) -> String {
        guard let stated = above.unfiltered.format?.backing?.filename else { return base.filename }
        let here = FileNames.resolve(stated, relativeTo: node.filename)
        let there = FileNames.resolve(stated, relativeTo: above.filename)
        return here == there ? stated : FileNames.relative(there, from: node.filename)
    }
}
