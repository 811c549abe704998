import BlockCore

/// Commits: writes all changes in memory to the file, in the order of writes that ``Qcow2State`` states.
extension Qcow2State {
    // MARK: Freeing

    /// Notes that clusters lose a reference, as soon as no durable entry refers to them any more.
    func release(_ cluster: HostCluster, count: Int, discards: Bool = false, leavesDamage: Bool = false) {
        if let last = pendingFrees.last, last.clusters.upperBound == cluster, last.discards == discards,
            last.leavesDamage == leavesDamage
        {
            pendingFrees[pendingFrees.count - 1].clusters = last.clusters.lowerBound..<cluster + count
        } else {
            pendingFrees.append(
                PendingFree(
                    clusters: cluster..<cluster + count, discards: discards, leavesDamage: leavesDamage))
        }
    }

    /// Releases the clusters that an L2 entry referred to.
    func release(_ entry: L2Entry, discards: Bool = false) {
        switch entry.kind(layout) {
        case .unallocated, .zeroPlain: break
        case .data, .zeroAllocated:
            // Clusters of a data file are not counted.
            if data.isExternal { return }
            release(layout.cluster(at: entry.hostOffset), count: 1, discards: discards)
        case .compressed:
            let clusters = entry.compressedClusters(layout)
            release(clusters.lowerBound, count: clusters.count)
        }
    }

    func applyFrees() throws(BlockError) {
        file.emit(.clusterFree)
        let store = try refcounts()
        let frees = pendingFrees
        pendingFrees = []
        var given: [Range<HostCluster>] = []
        defer { punch(given) }
        for (index, free) in frees.enumerated() {
            for cluster in free.clusters {
                do throws(BlockError) {
                    let isGiven = try apply(free, to: cluster, store)
                    if isGiven { given.add(cluster..<cluster + 1) }
                } catch {
                    // The rest waits for the next commit; a cluster with a damaged refcount is leaked.
                    let next = error.kind == .corrupt ? cluster + 1 : cluster
                    var rest = free
                    rest.clusters = next..<free.clusters.upperBound
                    pendingFrees = (rest.clusters.isEmpty ? [] : [rest]) + frees[(index + 1)...]
                    throw error
                }
            }
        }
    }

    /// - Returns: whether the cluster's space may be given back to the file system.
    private func apply(
        _ free: PendingFree, to cluster: HostCluster, _ store: Qcow2Allocator
    ) throws(BlockError) -> Bool {
        let refcount = try store.refcount(of: cluster)
        if free.leavesDamage {
            if refcount == 0 { return false }
            if refcount == 1, try holdsMetadata(cluster) { return false }
        }
        try checkRelease(cluster, refcount: refcount)
        guard try store.decrement(cluster) == 0 else { return false }
        // A cached table that lay in the cluster must not be written over the cluster's next contents.
        l2Cache.discard(layout.bytes(of: cluster))
        if layout.cluster(at: freeByteOffset) == cluster { freeByteOffset = .zero }
        return !isBeingEmptied && (free.discards || passesDiscards.ofOthers)
    }

    // MARK: Committing

    /// Whether any change is not in the file yet.
    var hasChanges: Bool {
        l2Cache.hasDirty || dirtyL1 != nil || !pendingFrees.isEmpty || hasUnflushedWrites
            || loadedRefcounts.map { $0.hasDirty || needsRefcountTable($0) } ?? false
    }
    var hasTooManyFrees: Bool { pendingFrees.count > Qcow2.Limit.pendingFrees }

    /// Makes what was written so far durable.
    func barrier() throws(BlockError) {
        file.emit(.flushToDisk)
        try file.flush()
        hasUnflushedWrites = false
    }

    /// Writes back all changed tables in the order of writes, and makes them durable.
    func commit() throws(BlockError) {
        var tables = self
        try tables.finishWrites()
        try checkSound()
        if headerIsUncertain { try restoreHeader() }
        // The data file is durable before the entries of the image that refer to it.
        if data.isExternal { try data.node.flush() }
        try padCompressedEnd()
        try commitRefcounts()
        if l2Cache.hasDirty || dirtyL1 != nil {
            try barrier()
            if l2Cache.hasDirty { file.emit(.l2Update) }
            try l2Cache.writeBack()
            if let dirty = dirtyL1 {
                try barrier()
                file.emit(.l1Update)
                try BigEndianTable.write(l1, dirty, to: file, at: header.l1Offset)
                dirtyL1 = nil
            }
            hasUnflushedWrites = true
        }
        if hasUnflushedWrites || !pendingFrees.isEmpty { try barrier() }
        if !pendingFrees.isEmpty {
            try applyFrees()
            try commitRefcounts()
        }
        freeFailure = nil
    }

    /// Writes refcounts: blocks, then table entries, then, for a table that grew, the header.
    func commitRefcounts() throws(BlockError) {
        guard let store = loadedRefcounts, store.hasDirty || needsRefcountTable(store) else { return }
        if refcountsAreLazy && !needsRefcountTable(store) { return }
        try writeRefcounts(store)
    }

    /// Whether the refcount table is larger than the one that the header in the file points to.
    func needsRefcountTable(_ store: Qcow2Allocator) -> Bool {
        store.needsPlacing || store.tableOffset != header.refcountTableOffset
    }

    /// Writes the refcounts, also where the dirty bit would allow to put it off.
    func writeRefcounts() throws(BlockError) {
        if let store = loadedRefcounts { try writeRefcounts(store) }
    }

    private func writeRefcounts(_ store: Qcow2Allocator) throws(BlockError) {
        if store.needsPlacing { try store.placeTable() }
        if needsRefcountTable(store) {
            let old = layout.cluster(at: HostOffset(header.refcountTableOffset))
            let oldClusters = header.refcountTableClusters
            try pointToRefcountTable(store)
            protection = nil
            // The header points to the new place, durably: the old one is free.
            for cluster in old..<old + oldClusters {
                do throws(BlockError) { try store.decrement(cluster) } catch {
                    release(cluster, count: 1)
                }
            }
        }
        try store.writeBack()
        hasUnflushedWrites = true
    }

    /// Makes the header point to the refcount table's new place, durably. The header in memory changes only
    /// after that, so that the next commit repeats a failed attempt.
    private func pointToRefcountTable(_ store: Qcow2Allocator) throws(BlockError) {
        try barrier()
        var changed = header
        changed.refcountTableOffset = store.tableOffset
        changed.refcountTableClusters = store.tableClusters
        file.emit(.refcountGrowSwitch)
        try file.write(changed.fixedBytes().span.bytes, at: 0)
        try barrier()
        header = changed
    }

    /// Writes the fixed header fields: one sector, so old or new after a crash.
    func writeHeaderFields() throws(BlockError) {
        try file.write(header.fixedBytes().span.bytes, at: 0)
        hasUnflushedWrites = true
    }

    /// Replaces the active L1 table: writes it to a new place, durable, before the header points to it.
    ///
    /// The old table's clusters lose a reference. The references of its entries are up to the caller.
    func moveL1(to entries: [UInt64], change: (inout Qcow2Header) -> Void = { _ in }) throws(BlockError) {
        let clusters = layout.clusters(entries.count * 8)
        file.emit(.l1GrowAllocate)
        let old = layout.cluster(at: HostOffset(header.l1Offset))
        let oldClusters = layout.clusters(header.l1Entries * 8)
        if clusters == 0 {
            try activateL1(entries, at: 0, change)
        } else {
            _ = try fillingNewClusters(clusters) { start throws(BlockError) in
                try activateL1(entries, at: start, change)
            }
        }
        l1 = entries
        dirtyL1 = nil
        protection = nil
        // The next commit frees them, behind a barrier.
        if oldClusters > 0 { release(old, count: oldClusters) }
        try barrier()
    }

    /// Writes an L1 table, makes it durable, and makes the header point to it.
    private func activateL1(
        _ entries: [UInt64], at offset: Int, _ change: (inout Qcow2Header) -> Void
    ) throws(BlockError) {
        file.emit(.l1GrowWrite)
        try BigEndianTable.write(entries, to: file, at: offset)
        try padTable(offset, entries.count * 8)
        hasUnflushedWrites = true
        try commit()
        try barrier()
        var changed = header
        changed.l1Offset = offset
        changed.l1Entries = entries.count
        change(&changed)
        file.emit(.l1GrowActivate)
        try moveHeader(to: changed)
    }

    /// Replaces the header in the file. A failed write is undone, durably; where that fails too, the file may
    /// have either header, and the clusters of both stay allocated.
    func moveHeader(to changed: Qcow2Header) throws(BlockError) {
        let before = header
        header = changed
        do throws(BlockError) { try writeHeaderFields() } catch {
            header = before
            headerIsUncertain = true
            try? restoreHeader()
            throw error
        }
    }

    func restoreHeader() throws(BlockError) {
        try writeHeaderFields()
        try barrier()
        headerIsUncertain = false
    }

    /// Fills the rest of a table's last sector, so that the file does not end inside an entry.
    func padTable(_ offset: Int, _ bytes: Int) throws(BlockError) {
        let end = bytes.roundedUp(to: Qcow2.sectorBytes) ?? bytes
        guard end > bytes else { return }
        let zeroes = [UInt8](repeating: 0, count: end - bytes)
        try file.write(zeroes.span.bytes, at: offset + bytes)
    }

    /// Drops every change that is not in the file, header included, as far as the file can still be read.
    func abandonChanges() {
        if let stored = try? Qcow2Driver.readHeader(file) { header = stored }
        hasUnflushedWrites = false
        loadedRefcounts = nil
        bitmaps = nil
        try? reload()
    }

    /// Drops every change that is not in the file and reads L1 and refcounts again, after a repair.
    func reload() throws(BlockError) {
        l2Cache.discardAll()
        pendingFrees = []
        dirtyL1 = nil
        freeByteOffset = .zero
        protection = nil
        knownEnd = 0
        l1 = try BigEndianTable.read(file, at: header.l1Offset, count: header.l1Entries)
        try loadedRefcounts?.reload(
            tableOffset: header.refcountTableOffset, tableClusters: header.refcountTableClusters)
    }
}
