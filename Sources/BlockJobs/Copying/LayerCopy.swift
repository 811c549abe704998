import BlockCore

/// Helpers of the jobs that copy within one backing chain.
enum LayerCopy {
    /// The size of a thread's reads, in bytes, unless clusters are larger.
    static let chunkBytes = Int.mib(1)
    /// The number of threads: one reads ahead while the other writes, and there is no more to gain.
    static let workers = 2

    /// The unit in bytes at whose multiples runs are cut: the node's cluster, at least a page.
    static func unitBytes(_ node: BlockNode) -> Int {
        max(node.unfiltered.format?.writeGranularity ?? 1, AlignedBuffer.alignmentBytes)
    }

    /// Reads `node` through its whole chain.
    static func reader(_ node: BlockNode) -> CopyWork.Read {
        { (buffer, offset) throws(BlockError) in
            do throws(BlockError) {
                try node.read(into: &buffer, at: offset)
            } catch {
                throw error.prefixed("error while reading at byte \(offset)")
            }
        }
    }

    /// Runs `body` while all of `nodes` are open for writing; those that were not are read-only again
    /// afterwards.
    ///
    /// - Throws: errors of `body`, first, and of reopening.
    static func writing(
        _ nodes: [BlockNode], _ body: () throws(BlockError) -> Void
    ) throws(BlockError) {
        var reopened: [BlockNode] = []
        do throws(BlockError) {
            for node in nodes where node.isReadOnly {
                try node.reopen(readOnly: false)
                reopened.append(node)
            }
            try body()
        } catch {
            reopened.forEach { try? $0.reopen(readOnly: true) }
            throw error
        }
        for node in reopened { try node.reopen(readOnly: true) }
    }

    /// Runs `body`, whose writes do not change the contents of `node`, so that it keeps the content identity
    /// by which overlays know it.
    static func keepingIdentity(of node: BlockNode, _ body: () throws(BlockError) -> Void) throws(BlockError)
    {
        let identified = node.unfiltered.format?.asContentIdentifying
        identified?.keepIdentity(true)
        defer { identified?.keepIdentity(false) }
        try body()
    }

    /// The driver of `node`, which can change its backing reference.
    ///
    /// - Throws: `unsupported` when it cannot.
    static func rebasable(_ node: BlockNode) throws(BlockError) -> any Rebasable {
        guard let driver = node.unfiltered.format?.asRebasable else {
            throw BlockError(
                .unsupported, "Format driver '\(node.driverName)' does not support changing the backing file",
                path: node.filename)
        }
        return driver
    }

    /// Makes `backing` the backing node of `node` and closes the old chain, except nodes that the chain of
    /// `backing` contains.
    static func replaceBacking(of node: BlockNode, with backing: BlockNode?) throws(BlockError) {
        let dropped = Array(node.chain.dropFirst())
        let kept = backing?.chain ?? []
        // A request under way may be reading the layers to close.
        try node.drained { node.backing = backing }
        guard let first = dropped.first, !kept.contains(where: { $0 === first }) else { return }
        for layer in dropped {
            if let next = layer.backing, kept.contains(where: { $0 === next }) {
                layer.backing = nil
                break
            }
        }
        try first.close()
    }

    // MARK: Names of a base

    /// The backing file that `node` is going to state when `base`, further down its chain, becomes the next.
    ///
    /// - Parameter name: the file name to state; `nil` for the one that the chain uses.
    /// - Throws: `invalidArgument` when `base` is not in the chain.
    static func reference(
        to base: BlockNode, for node: BlockNode, name: String?
    ) throws(BlockError) -> BackingReference {
        let chain = node.chain
        guard let index = chain.firstIndex(where: { $0 === base }), index > 0 else {
            throw BlockError(
                .invalidArgument, "'\(base.filename)' is not in the backing chain of '\(node.filename)'",
                path: node.filename)
        }
        let name = name ?? Self.name(of: base, from: chain[index - 1], for: node)
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
