import BlockCore

/// Clusters are taken: found, and counted once. What counts them has its space in the file, so that a full
/// disk refuses the clusters, not their refcounts.
extension Qcow2Allocator {
    /// Allocates `count` clusters in a row, with a refcount of one. A failure takes none.
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

    /// As ``allocate(_:)``, for very many clusters: behind everything that is counted.
    ///
    /// - Parameter start: where to look for what is counted.
    func allocate(_ count: Int, behindCountedFrom start: HostCluster) throws(BlockError) -> HostCluster {
        file.emit(.clusterAllocate)
        var first = start
        try eachCounted(first..<max(first, endOfBlocks)) { cluster, _ in first = cluster + 1 }
        guard count <= clusterLimit - first else {
            throw BlockError(.noSpace, "The image file would become too large", path: file.filename)
        }
        // What counts them must not be placed among them.
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

    /// Gives the first of some clusters that are not counted yet, as many as one slice counts, a refcount of
    /// one.
    ///
    /// - Returns: how many.
    private func countOnce(_ clusters: Range<HostCluster>) throws(BlockError) -> Int {
        let first = clusters.lowerBound
        // Makes the block, or the copy of it, that is changed.
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

    /// Finds `count` free clusters in a row and takes them out of the search, without a refcount yet.
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

    /// Takes all clusters up to `end` out of the search for free ones; answers where it began.
    func takeEnd(_ end: HostCluster) -> HostCluster {
        defer {
            firstMaybeFree = end
            virginCluster = max(virginCluster, end)
        }
        return firstMaybeFree
    }

    /// Lets the search begin there again, unless it begins before.
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
            // The block's own cluster is counted by this block, or by another that may have to be made too.
            try set(home, to: 1)
        } catch {
            // A block that nobody counts would be given out to somebody else.
            table[index] = 0
            cache.discard(layout.bytes(of: home))
            firstMaybeFree = min(firstMaybeFree, home)
            throw error
        }
        return offset
    }

    /// A new block is all zero in the file before anything refers to it.
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
