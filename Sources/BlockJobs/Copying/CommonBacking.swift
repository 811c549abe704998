import BlockCore

/// Finds the runs that a source and a target both read from their backing chains, so that they need not be
/// copied.
///
/// A source without a backing node has no such runs: what its tables do not map reads as zeroes. Thread-safe.
struct CommonBacking: Sendable {
    private let source: BlockNode
    private let sourceBackingLength: Int
    private let target: BlockNode
    private let targetBacking: BlockNode
    private let targetBackingLength: Int
    /// The image that both backing chains contain; `nil` where the caller guarantees that the backing nodes
    /// have the same contents.
    private let shared: SharedBase?

    /// Answers `nil` where all runs have to be copied.
    ///
    /// - Throws: what reading the lengths and maps of the nodes fails with.
    init?(_ sources: SourceDisk, _ target: BlockNode) throws(BlockError) {
        guard sources.nodes.count == 1, let below = sources.nodes[0].backing,
            let targetBacking = target.backing
        else { return nil }
        shared = try SharedBase.find(below, targetBacking)
        // Chains that read one file in two ways contradict the caller's guarantee.
        if shared == nil, SharedBase.haveFilesInCommon(below, targetBacking) { return nil }
        source = sources.nodes[0]
        sourceBackingLength = try below.length()
        self.target = target
        self.targetBacking = targetBacking
        targetBackingLength = try targetBacking.length()
    }

    /// Whether both chains already have the bytes at `offset`, and the number of bytes (at least 1, at most
    /// `limit`) for which that holds.
    func look(at offset: Int, limit: Int) throws(BlockError) -> (isCommon: Bool, length: Int) {
        guard offset < targetBackingLength else { return (false, limit) }
        let own = try target.layerExtent(at: offset, limit: min(limit, targetBackingLength - offset))
        guard own.status == .unallocated else { return (false, own.length) }
        guard let shared else { return try lookAtTop(offset, own.length) }
        let old = try source.status(at: offset, limit: own.length, above: shared.old)
        if old.isPresent { return (false, old.length) }
        let new = try targetBacking.status(at: offset, limit: old.length, above: shared.new)
        return (!new.isPresent, new.length)
    }

    /// The same where the caller guarantees that the backing nodes have the same contents.
    private func lookAtTop(_ offset: Int, _ limit: Int) throws(BlockError) -> (isCommon: Bool, length: Int) {
        guard offset < sourceBackingLength else { return (false, limit) }
        let top = try source.layerExtent(at: offset, limit: min(limit, sourceBackingLength - offset))
        return (top.status == .unallocated, top.length)
    }
}
