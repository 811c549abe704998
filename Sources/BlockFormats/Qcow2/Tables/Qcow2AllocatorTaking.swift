import BlockCore

/// Taking clusters: each is found and gets a refcount of one. The refcount block's space in the file is
/// reserved first, so that a full disk refuses the clusters and not, later, their refcounts.
extension Qcow2Allocator {
    /// Allocates `count` adjacent clusters, each with a refcount of one. A failure allocates none.
    func allocate(_ count: Int) throws(BlockError) -> HostCluster {
        file.emit(.clusterAllocate)
        let first = try findFree(count)
        var counted = first
        do throws(BlockError) {
            while counted < first + count {
                try set(counted, to: 1)
                counted += 1
            }
            try placeGrownTable()
        } catch {
            giveBack(first..<counted)
            firstMaybeFree = min(firstMaybeFree, first)
            throw error
        }
        return first
    }

    /// As ``allocate(_:)``, for very many clusters: behind every cluster with a refcount above zero.
    ///
    /// - Parameter start: the cluster from which on refcounts are searched.
    func allocate(_ count: Int, behindCountedFrom start: HostCluster) throws(BlockError) -> HostCluster {
        file.emit(.clusterAllocate)
        var first = start
        try eachCounted(first..<max(first, endOfBlocks)) { cluster, _ in first = cluster + 1 }
        guard count <= clusterLimit - first else {
            throw BlockError(.noSpace, "The image file would become too large", path: file.filename)
        }
        // New refcount blocks must not be placed among these clusters.
        let search = takeEnd(first + count)
        defer { searchAgain(from: search) }
        var counted = first
        do throws(BlockError) {
            while counted < first + count { counted += try countOnce(counted..<first + count) }
            try placeGrownTable()
        } catch {
            giveBack(first..<counted)
            throw error
        }
        return first
    }

    /// Sets the refcount of the first of some free clusters, as many as one slice counts, to one.
    ///
    /// - Returns: the number of clusters.
    private func countOnce(_ clusters: Range<HostCluster>) throws(BlockError) -> Int {
        let first = clusters.lowerBound
        // This makes the block, or the copy of it, in which the others are set below.
        try set(first, to: 1)
        guard let (slot, entry, entries) = try slot(of: first) else { return 1 }
        let count = min(clusters.count, entries - entry)
        var bytes = cache.bytes(of: slot).mutableBytes
        for index in entry..<entry + count {
            RefcountEntries.set(&bytes, index, to: 1, order: layout.refcountOrder)
        }
        let start = RefcountEntries.byteRange(entry, order: layout.refcountOrder).lowerBound
        let end = RefcountEntries.byteRange(entry + count - 1, order: layout.refcountOrder).upperBound
        cache.markDirty(slot, start..<end)
        return count
    }

    /// Finds `count` adjacent free clusters and takes them out of the search; their refcounts stay zero.
    func findFree(_ count: Int) throws(BlockError) -> HostCluster {
        let limit = min(clusterLimit, virginCluster + Self.searchLimit + count)
        var candidate = firstMaybeFree
        var run = 0
        while run < count {
            let cluster = candidate + run
            guard cluster < limit else {
                throw BlockError(.noSpace, "The image file would become too large", path: file.filename)
            }
            let isCounted = try refcount(of: cluster) != 0
            let isFree = isCounted || isHeld(cluster) ? false : try clusterGuard?.mayAllocate(cluster) ?? true
            if !isFree {
                candidate = cluster + 1
                run = 0
            } else {
                run += 1
            }
        }
        firstMaybeFree = candidate + count
        virginCluster = max(virginCluster, candidate + count)
        return candidate
    }

    /// Takes all clusters up to `end` out of the search for free ones. Returns where the search began.
    func takeEnd(_ end: HostCluster) -> HostCluster {
        defer {
            firstMaybeFree = end
            virginCluster = max(virginCluster, end)
        }
        return firstMaybeFree
    }

    /// Makes the search begin at `cluster` or before.
    func searchAgain(from cluster: HostCluster) { firstMaybeFree = min(firstMaybeFree, cluster) }

    /// Makes the refcount block that counts `cluster`.
    func makeBlock(for cluster: HostCluster) throws(BlockError) -> HostOffset {
        let index = layout.refcountBlock(of: cluster)
        if index >= table.count { try growTable(toHold: index) }
        if let made = try blockOffset(cluster) { return made }
        file.emit(.refcountBlockAllocate)
        let home = try findFree(1)
        noteBlock(home)
        let offset = layout.offset(of: home)
        do throws(BlockError) {
            file.emit(.refcountBlockWrite)
            try reserveEntry(index)
            shadow?.blocks.insert(index)
            try clear(block: offset)
            table[index] = UInt64(offset.bytes)
            noteDirtyTable(index..<index + 1)
            // The block's own cluster is counted by the new block itself or by another one, which this may
            // make too.
            try set(home, to: 1)
        } catch {
            // A block with a refcount of zero would be allocated again for something else.
            table[index] = 0
            cache.discard(layout.bytes(of: home))
            firstMaybeFree = min(firstMaybeFree, home)
            throw error
        }
        return offset
    }

    /// Writes zeroes over a new block: that precedes every reference to it.
    private func clear(block offset: HostOffset) throws(BlockError) {
        if layout.sliceSize == layout.clusterSize {
            let slot = try cache.slot(at: offset.bytes, load: false)
            try cache.reserve(slot)
            cache.markDirty(slot, 0..<layout.sliceSize)
        } else {
            try file.writeReservedZeroes(at: offset.bytes, count: layout.clusterSize)
        }
    }

    /// Notes entries of the table that differ from the file.
    func noteDirtyTable(_ range: Range<Int>) { dirtyTable = dirtyTable.union(range) }

    /// Remembers the cluster of a new block.
    func noteBlock(_ cluster: HostCluster) { blockFilter?.insert(cluster) }
}
