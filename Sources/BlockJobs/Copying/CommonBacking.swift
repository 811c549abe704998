import BlockCore

/// What a source and a target over a backing file read alike without copying: what both have from below.
///
/// Only a source with a backing node has anything in common with the target; without one, what its tables do
/// not hold is zero. Thread-safe.
struct CommonBacking: Sendable {
    private let source: BlockNode
    private let sourceBackingLength: Int
    private let target: BlockNode
    private let targetBacking: BlockNode
    private let targetBackingLength: Int
    /// The image in both backing chains; `nil` where the backing nodes are stated to be alike as a whole.
    private let shared: SharedBase?

    /// `nil` where nothing can be left out.
    ///
    /// - Throws: what the nodes throw when asked for their lengths and maps.
    init?(_ sources: SourceDisk, _ target: BlockNode) throws(BlockError) {
        guard sources.nodes.count == 1, let below = sources.nodes[0].backing,
            let targetBacking = target.backing
        else { return nil }
        shared = try SharedBase.find(below, targetBacking)
        // One file, read in two ways, is not what was stated.
        if shared == nil, SharedBase.haveFilesInCommon(below, targetBacking) { return nil }
        source = sources.nodes[0]
        sourceBackingLength = try below.length()
        self.target = target
        self.targetBacking = targetBacking
        targetBackingLength = try targetBacking.length()
    }

    /// Whether the bytes at `offset` are in both chains already, and for how many bytes (at least 1, at most
    /// `limit`) that answer holds.
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

    /// The same where all of the source's backing chain stands for the target's.
    private func lookAtTop(_ offset: Int, _ limit: Int) throws(BlockError) -> (isCommon: Bool, length: Int) {
        guard offset < sourceBackingLength else { return (false, limit) }
        let top = try source.layerExtent(at: offset, limit: min(limit, sourceBackingLength - offset))
        return (top.status == .unallocated, top.length)
    }
}
