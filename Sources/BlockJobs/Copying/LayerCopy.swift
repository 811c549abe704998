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
}
