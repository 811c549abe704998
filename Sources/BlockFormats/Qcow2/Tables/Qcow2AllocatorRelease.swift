import BlockCore

/// Clusters are given up.
extension Qcow2Allocator {
    /// Takes back clusters that nothing refers to. What cannot be taken back is leaked, which a check finds.
    func giveBack(_ clusters: Range<HostCluster>) {
        for cluster in clusters { _ = try? decrement(cluster) }
    }

    /// Lets the search find a cluster that lost its last reference.
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

    /// Gives up blocks that count nothing but themselves, for they would keep the file long.
    ///
    /// Order of writes: the table without them, a barrier; then whoever counts their clusters counts less.
    func dropEmptyBlocks() throws(BlockError) {
        // A block may count nothing but another one that goes.
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
