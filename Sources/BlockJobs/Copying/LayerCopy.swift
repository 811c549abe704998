import BlockCore

/// What the jobs within one backing chain share.
enum LayerCopy {
    /// What a thread reads at once, in bytes, unless clusters are larger.
    static let chunkBytes = 1 << 20
    /// Reading ahead of the writer is all there is to win.
    static let workers = 2

    /// Runs are cut at multiples of this: the node's clusters, or a page.
    static func unitBytes(_ node: BlockNode) -> Int {
        max(node.unfiltered.format?.writeGranularity ?? 1, AlignedBuffer.alignmentBytes)
    }

    /// A reader of the whole chain of `node`.
    static func reader(_ node: BlockNode) -> CopyWork.Read {
        { (buffer, offset) throws(BlockError) in
            do throws(BlockError) {
                try node.read(into: &buffer, at: offset)
            } catch {
                throw error.prefixed("error while reading at byte \(offset)")
            }
        }
    }

    /// Runs `body` with all of `nodes` marked as used by the job `name`.
    static func using(
        _ nodes: [BlockNode], by name: String, _ body: () throws(BlockError) -> Void
    ) throws(BlockError) {
        var used: [BlockNode] = []
        defer { used.forEach { $0.endUse() } }
        for node in nodes {
            try node.beginUse(by: name)
            used.append(node)
        }
        try body()
    }

    /// Runs `body`, whose writes to `node` leave what it reads as: overlays know it by its old identity.
    static func keepingIdentity(of node: BlockNode, _ body: () throws(BlockError) -> Void) throws(BlockError)
    {
        let identified = node.unfiltered.format?.asContentIdentifying
        identified?.keepIdentity(true)
        defer { identified?.keepIdentity(false) }
        try body()
    }

    /// The driver of `node` if it can change its backing reference.
    static func rebasable(_ node: BlockNode) throws(BlockError) -> any Rebasable {
        guard let driver = node.unfiltered.format?.asRebasable else {
            throw BlockError(
                .unsupported, "Format driver '\(node.driverName)' does not support changing the backing file",
                path: node.filename)
        }
        return driver
    }

    /// Puts `backing` below `node` and closes what was there, but for what `backing`'s own chain needs.
    static func replaceBacking(of node: BlockNode, with backing: BlockNode?) throws(BlockError) {
        let dropped = Array(node.chain.dropFirst())
        let kept = backing?.chain ?? []
        node.backing = backing
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
