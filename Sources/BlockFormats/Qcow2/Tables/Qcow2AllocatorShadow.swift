import BlockCore

/// A change of refcounts that is not to be seen in parts: the blocks that change are copied, and the file
/// keeps the old ones until the header refers to a new table.
extension Qcow2Allocator {
    /// What a change that is not to be seen in parts keeps in mind.
    struct Shadow {
        /// Numbers of the blocks that are copies, or new.
        var blocks: Set<Int> = []
        /// Clusters that lost their last reference; the header in the file still refers to them.
        var held = ClusterFilter()
        /// Those from `end` on, for which the filter is not asked.
        var heldBehindEnd: Set<HostCluster> = []
        /// Where the file ended.
        let end: HostCluster
        var lowestFreed = HostCluster(.max)
        /// Where the blocks were that are copies now.
        var left: [Range<HostCluster>] = []
    }

    /// From now on blocks are copied before they change, to clusters that are free before and after the
    /// change: the file keeps its refcounts until the header refers to a new table (``placeTable()``). All
    /// changes have been written back. After a failure this allocator is of no use any more.
    ///
    /// - Parameter first: where the search for free clusters begins.
    func beginShadow(searchingFrom first: HostCluster) throws(BlockError) {
        shadow = Shadow(end: virginCluster)
        firstMaybeFree = first
        // The new blocks and the new table may need entries behind those that there are.
        let last = layout.refcountBlock(of: virginCluster) + 2
        if last >= table.count { try growTable(toHold: last) }
    }

    /// The header refers to the new table, durably.
    ///
    /// - Returns: the clusters of blocks that were copied.
    func endShadow() -> [Range<HostCluster>] {
        guard let shadow else { return [] }
        self.shadow = nil
        firstMaybeFree = min(firstMaybeFree, shadow.lowestFreed)
        return shadow.left
    }

    /// The offset of the block with that number, which may be changed there.
    func writableBlock(_ index: Int, at old: HostOffset) throws(BlockError) -> HostOffset {
        guard shadow?.blocks.insert(index).inserted == true else { return old }
        let home = try findFree(1)
        noteBlock(home)
        let offset = layout.offset(of: home)
        // Where this fails, the whole allocator is given up (``beginShadow(searchingFrom:)``).
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var bytes = buffer.mutableBytes
        try file.read(into: &bytes, at: old.bytes)
        try file.write(buffer.bytes, at: offset.bytes)
        table[index] = UInt64(offset.bytes)
        noteDirtyTable(index..<index + 1)
        try set(home, to: 1)
        let cluster = layout.cluster(at: old)
        try decrement(cluster)
        shadow?.left.append(cluster..<cluster + 1)
        return offset
    }

    /// Whether the header in the file still refers to a cluster that is not counted any more.
    func isHeld(_ cluster: HostCluster) -> Bool {
        guard let shadow else { return false }
        return cluster < shadow.end ? shadow.held.mayContain(cluster) : shadow.heldBehindEnd.contains(cluster)
    }
}
