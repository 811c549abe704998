import BlockCore

/// Refcounts of many clusters.
extension Qcow2Allocator {
    /// One past the last cluster for which there is a block.
    var endOfBlocks: HostCluster {
        let last = table.lastIndex { $0 & L2Entry.offsetMask != 0 }
        return layout.firstCluster(ofBlock: last.map { $0 + 1 } ?? 0)
    }

    /// Whether there is a block for `cluster`; without one, all refcounts that the block would hold are zero.
    func hasBlock(for cluster: HostCluster) -> Bool {
        let index = layout.refcountBlock(of: cluster)
        return table.indices.contains(index) && table[index] & L2Entry.offsetMask != 0
    }

    /// The slot of the slice with `cluster`'s refcount, the entry's number there, and how many entries there
    /// are.
    func slot(of cluster: HostCluster) throws(BlockError) -> (slot: Int, entry: Int, entries: Int)? {
        guard let block = try blockOffset(cluster) else { return nil }
        let (slot, entry) = try locate(cluster, block: block)
        return (slot, entry, (layout.sliceSize * 8) >> layout.refcountOrder)
    }

    /// The cached slice with `cluster`'s refcount: its bytes, the entry's number, and how many entries there
    /// are.
    func slice(
        of cluster: HostCluster
    ) throws(BlockError) -> (buffer: AlignedBuffer, first: Int, entries: Int)? {
        guard let (slot, first, entries) = try slot(of: cluster) else { return nil }
        return (cache.bytes(of: slot), first, entries)
    }

    /// Calls `body` for every cluster in `range` whose refcount is not zero, in ascending order. `body` must
    /// not use the allocator.
    func eachCounted(
        _ range: Range<HostCluster>,
        _ body: (_ cluster: HostCluster, _ count: UInt64) throws(BlockError) -> Void
    ) throws(BlockError) {
        var cluster = range.lowerBound
        while cluster < range.upperBound {
            guard let slice = try slice(of: cluster) else {
                cluster = layout.firstCluster(ofBlock: layout.refcountBlock(of: cluster) + 1)
                continue
            }
            let end = min(range.upperBound, cluster + slice.entries - slice.first)
            if !slice.buffer.bytes.isZero {
                for entry in 0..<end - cluster {
                    let count = RefcountEntries.get(
                        slice.buffer.bytes, slice.first + entry, order: layout.refcountOrder)
                    if count != 0 { try body(cluster + entry, count) }
                }
            }
            cluster = end
        }
    }

    /// Whether a cluster holds a refcount block.
    ///
    /// - Complexity: O(1) for nearly all clusters that hold none; else O(n) in the number of blocks.
    func isBlock(_ cluster: HostCluster) -> Bool {
        if blockFilter == nil { blockFilter = filterOfBlocks() }
        guard blockFilter?.mayContain(cluster) == true else { return false }
        let offset = UInt64(cluster.index) << UInt64(layout.clusterBits)
        return table.contains { $0 & L2Entry.offsetMask == offset }
    }

    private func filterOfBlocks() -> ClusterFilter {
        var filter = ClusterFilter()
        for entry in table where entry & L2Entry.offsetMask != 0 {
            filter.insert(layout.cluster(in: entry))
        }
        return filter
    }
}
