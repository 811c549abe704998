import BlockCore

/// An atomic change of refcounts: changed blocks are copied to free clusters, and the file keeps the old
/// blocks until the header refers to a new table.
extension Qcow2Allocator {
    /// The state of an atomic change.
    struct Shadow {
        /// Numbers of the blocks that are copies, or new.
        var blocks: Set<Int> = []
        /// Clusters that lost their last reference; the header in the file still refers to them.
        var held = ClusterFilter()
        /// Such clusters at or behind ``end``, kept exactly instead of in the filter.
        var heldBehindEnd: Set<HostCluster> = []
        /// One past the file's last cluster when the change began.
        let end: HostCluster
        var lowestFreed = HostCluster(.max)
        /// The old places of the copied blocks.
        var left: [Range<HostCluster>] = []
    }

    /// Begins an atomic change: from now on blocks are copied before they change, to clusters that are free
    /// before and after the change. The file keeps its refcounts until the header refers to a new table
    /// (``placeTable()``). The caller has written back all earlier changes. After a failure the allocator
    /// must be dropped.
    ///
    /// - Parameter first: where the search for free clusters begins.
    func beginShadow(searchingFrom first: HostCluster) throws(BlockError) {
        shadow = Shadow(end: virginCluster)
        firstMaybeFree = first
        // The new blocks and the new table may need entries behind the table's present end.
        let last = layout.refcountBlock(of: virginCluster) + 2
        if last >= table.count { try growTable(toHold: last) }
    }

    /// Ends an atomic change, once the header refers to the new table, durably.
    ///
    /// - Returns: the clusters of blocks that were copied.
    func endShadow() -> [Range<HostCluster>] {
        guard let shadow else { return [] }
        self.shadow = nil
        firstMaybeFree = min(firstMaybeFree, shadow.lowestFreed)
        return shadow.left
    }

    /// The offset at which the block of that number may be changed; copies it there first where that is
    /// needed.
    func writableBlock(_ index: Int, at old: HostOffset) throws(BlockError) -> HostOffset {
        guard shadow?.blocks.insert(index).inserted == true else { return old }
        let home = try findFree(1)
        noteBlock(home)
        let offset = layout.offset(of: home)
        // After a failure here, the caller drops the whole allocator (``beginShadow(searchingFrom:)``).
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

    /// Whether the header in the file still refers to a cluster whose refcount has become zero.
    func isHeld(_ cluster: HostCluster) -> Bool {
        guard let shadow else { return false }
        return cluster < shadow.end ? shadow.held.mayContain(cluster) : shadow.heldBehindEnd.contains(cluster)
    }
}
