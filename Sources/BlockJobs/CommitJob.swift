import BlockCore

/// Copies the data of the layers above a base into the base, then empties the top layer.
///
/// When the process is killed at any moment, the top image reads as before: it gives up a cluster only once
/// the base has the data durably. Images between top and base keep their files, but no longer read as before,
/// since their base has changed. While the job runs, nobody else may write to the nodes: ``ActiveCommitJob``
/// is for a top that a guest writes to.
public struct CommitJob: BlockJob {
    /// The job's name in the message that a node is in use.
    public static let name = "commit"

    /// Runs of zeroes inside data that are shorter, in bytes, are written to the base as data.
    static let sparseBytes = Int.kib(64)

    private let top: BlockNode
    private let base: BlockNode?
    private let emptiesTop: Bool
    public let speed: Int
    private let overlay: BlockNode?
    private let baseName: String?

    /// - Parameters:
    ///   - top: the image to commit; writable when it is to be emptied.
    ///   - base: a node below it; `nil` for the next one.
    ///   - emptiesTop: whether the top layer gives up its clusters; only when `base` is the next node.
    ///   - speed: the limit in bytes a second; 0 keeps the limit of the job's control.
    ///   - overlay: the image over `top`, when that is a layer in the middle of a chain: afterwards the base
    ///     is its backing file, and the layers from the top to the base are closed. A guest may write to it.
    ///   - baseName: the file name that the overlay states for the base; `nil` for the name that the chain
    ///     uses.
    public init(
        top: BlockNode, base: BlockNode? = nil, emptiesTop: Bool = true, speed: Int = 0,
        overlay: BlockNode? = nil, baseName: String? = nil
    ) {
        self.overlay = overlay
        self.baseName = baseName
        self.top = top
        self.base = base
        self.emptiesTop = emptiesTop
        self.speed = speed
    }

    /// The layers from the top to the base.
    public var nodes: [BlockNode] {
        let base = base ?? top.backing
        let layers = top.chain.prefix { $0 !== base } + [base].compactMap(\.self)
        return [overlay].compactMap(\.self) + layers
    }

    /// - Throws: `notFound` without a backing file; `invalidArgument` when `base` is not below the top, or is
    ///   not the next node although the top is to be emptied; `unsupported` when the format cannot empty an
    ///   image; `cancelled`; what reading and writing fail with.
    public func work(_ control: JobControl) throws(BlockError) {
        let base = try checkedBase()
        try LayerCopy.writing([base]) { () throws(BlockError) in
            try LayerCopy.keepingIdentity(of: top) { () throws(BlockError) in
                try keepIdentities(base)
                try copy(to: base, control)
            }
        }
        if emptiesTop { try top.makeEmpty() }
        if let overlay { try rebase(overlay, to: base) }
    }

    /// Makes the base, which has the data durably, the backing file of the overlay: on disk, then in the
    /// chain.
    private func rebase(_ overlay: BlockNode, to base: BlockNode) throws(BlockError) {
        let reference = try LayerCopy.reference(to: base, for: overlay, name: baseName)
        let driver = try LayerCopy.rebasable(overlay)
        try LayerCopy.writing([overlay]) { () throws(BlockError) in
            // A guest's write meanwhile would keep the identity too.
            try overlay.drained { () throws(BlockError) in
                try LayerCopy.keepingIdentity(of: overlay) { () throws(BlockError) in
                    try driver.changeBacking(to: reference)
                }
            }
        }
        try LayerCopy.replaceBacking(of: overlay, with: base)
    }

    func checkedBase() throws(BlockError) -> BlockNode {
        guard let next = top.backing else {
            throw BlockError(.notFound, "Image does not have a backing file", path: top.filename)
        }
        let base = base ?? next
        guard base !== top, top.chain.contains(where: { $0 === base }) else {
            throw BlockError(
                .invalidArgument, "Did not find '\(base.filename)' in the backing chain of '\(top.filename)'",
                path: top.filename)
        }
        if let overlay, overlay.backing !== top {
            throw BlockError(
                .invalidArgument, "'\(overlay.filename)' is not an overlay of '\(top.filename)'",
                path: overlay.filename)
        }
        if emptiesTop {
            guard overlay == nil, base === next else {
                throw BlockError(
                    .invalidArgument, "The top image can be emptied only into its own backing file",
                    path: top.filename)
            }
            guard top.unfiltered.format?.asEmptying != nil else {
                throw BlockError(
                    .unsupported, "Format driver '\(top.driverName)' cannot empty an image",
                    path: top.filename)
            }
        }
        return base
    }

    /// Whether the job is going to write to the base or resize it.
    private func changesBase(_ base: BlockNode) throws(BlockError) -> Bool {
        let length = try top.length()
        var offset = 0
        while offset < length {
            let status = try top.status(at: offset, limit: length - offset, above: base)
            if status.isPresent { return true }
            offset += status.length
        }
        return try base.length() < length
    }

    /// Gives the base and every image between it and the top a new content identity, since all of them are
    /// about to read differently and overlays of theirs elsewhere must notice. The layer above each records
    /// the new identity first, so that the top opens again whenever the job is stopped.
    func keepIdentities(_ base: BlockNode) throws(BlockError) {
        let layers = top.chain.prefix { $0 !== base } + [base]
        var isChanging = false
        for (above, below) in zip(layers, layers.dropFirst()).reversed() {
            guard let keeper = above.unfiltered.format?.asContentIdentifying,
                let changing = below.unfiltered.format?.asContentIdentifying,
                type(of: keeper) == type(of: changing)
            else { continue }
            if !isChanging { isChanging = try changesBase(base) }
            guard isChanging else { return }
            try LayerCopy.writing([above, below]) { () throws(BlockError) in
                try keeper.announceIdentity(of: below)
                try changing.renewIdentity()
                try keeper.adoptIdentity(of: below)
            }
        }
    }

    /// Copies the data. On return it is durable in the base.
    private func copy(to base: BlockNode, _ control: JobControl) throws(BlockError) {
        let length = try top.length()
        control.setTotal(length)
        if try base.length() < length { try grow(base, to: length) }
        let unit = LayerCopy.unitBytes(base)
        let sharer = control.hasSpeedLimit ? nil : SpaceSharer(try SourceDisk([top]), base)
        let cursor = RunCursor(
            end: length, unit: unit, look: RunCursor.sharing(sharer, classifier(base)))
        let cutter = ChunkCutter(cursor, maximumCopyBytes: LayerCopy.chunkBytes)
        let work = CopyWork(
            read: LayerCopy.reader(top),
            scanner: ZeroScanner(
                granularity: base.unfiltered.format?.writeGranularity ?? 1, sparseBytes: Self.sparseBytes),
            writer: PieceWriter(node: base, zeroing: .marked), sharer: sharer,
            bufferBytes: cutter.bufferBytes, writeback: Writeback(of: base))
        // In a raw base the order of writes does not decide where bytes lie.
        let isOrdered = base.unfiltered.format?.isTransparent != true
        try ChunkPipeline(
            cutter: cutter, work: work, workers: LayerCopy.workers, isOrdered: isOrdered
        ).run(control)
        try base.flush()
    }

    /// Makes the base as large as the top.
    ///
    /// A base that is shorter than its own backing file hides the end of that file, and growing the base may
    /// uncover it. So the top first stores zeroes of its own wherever neither it nor a layer above the base
    /// has data there.
    func grow(_ base: BlockNode, to length: Int) throws(BlockError) {
        var offset = try base.length()
        let exposed = min(length, try base.backing?.length() ?? 0)
        guard offset < exposed else { return try base.resize(to: length) }
        let pinning = PieceWriter(node: top, zeroing: .inThisLayer)
        while offset < exposed {
            let here = try top.status(at: offset, limit: exposed - offset, above: base)
            if !here.isPresent { try pinning.zero(offset..<offset + here.length) }
            offset += here.length
        }
        try top.flush()
        try base.resize(to: length)
    }

    private func classifier(_ base: BlockNode) -> RunCursor.Look {
        let top = top
        return { (offset, limit) throws(BlockError) in
            let status = try top.status(at: offset, limit: limit, above: base)
            if !status.isPresent { return (.skip, status.length) }
            return (status.isZero ? .zero : .copy, status.length)
        }
    }
}
