import BlockCore

/// Giving clusters back.
extension Qcow2Allocator {
    /// Frees clusters that nothing refers to. A cluster whose refcount cannot be changed is leaked; a check
    /// finds it.
    func giveBack(_ clusters: Range<HostCluster>) {
        for cluster in clusters { _ = try? decrement(cluster) }
    }

    /// Makes the search for free clusters see a cluster that lost its last reference.
    func noteFreed(_ cluster: HostCluster) {
        guard let end = shadow?.end, let lowest = shadow?.lowestFreed else {
            return firstMaybeFree = min(firstMaybeFree, cluster)
        }
        shadow?.lowestFreed = min(lowest, cluster)
        if cluster < end {
            shadow?.held.insert(cluster)
        } else {
            shadow?.heldBehindEnd.insert(cluster)
        }
    }

    /// Frees blocks that count nothing but themselves: such a block at the end keeps the file long.
    ///
    /// Order of writes: the table without them, a barrier; then the refcounts of their clusters go down.
    func dropEmptyBlocks() throws(BlockError) {
        // Dropping a block can leave another one empty: the one that counted it. Hence the loop.
        while try dropSomeBlocks() {}
    }

    /// - Returns: whether any block was dropped.
    private func dropSomeBlocks() throws(BlockError) -> Bool {
        var dropped: [HostCluster] = []
        for index in table.indices.dropFirst() {
            guard let offset = try blockOffset(layout.firstCluster(ofBlock: index)) else { continue }
            let block = layout.cluster(at: offset)
            guard try countsOnlyItself(index, at: block) else { continue }
            table[index] = 0
            noteDirtyTable(index..<index + 1)
            dropped.append(block)
        }
        if dropped.isEmpty { return false }
        for block in dropped { cache.discard(layout.bytes(of: block)) }
        try writeBack()
        try barrier()
        for block in dropped { try decrement(block) }
        return true
    }

    private func countsOnlyItself(_ index: Int, at home: HostCluster) throws(BlockError) -> Bool {
        let first = layout.firstCluster(ofBlock: index)
        for cluster in first..<first + layout.refcountsPerBlock where cluster != home {
            if try refcount(of: cluster) != 0 { return false }
        }
        return true
    }
}
