import BlockCore

/// Refcounts go to the file.
extension Qcow2Allocator {
    /// Makes what was written so far durable.
    func barrier() throws(BlockError) {
        file.emit(.flushToDisk)
        try file.flush()
    }

    /// Writes all changes: blocks first, then (after `barrier`) the table entries that point to new ones.
    func writeBack() throws(BlockError) {
        if cache.hasDirty { file.emit(.refcountBlockUpdate) }
        try cache.writeBack()
        guard !needsPlacing, let dirty = dirtyTable else { return }
        try barrier()
        // The entries in the file lack new blocks only.
        file.emit(.refcountBlockHookup)
        file.emit(.refcountTableUpdate)
        try BigEndianTable.write(table, dirty, to: file, at: tableOffset)
        dirtyTable = nil
    }

    /// Forgets everything that was changed and cached, and reads the table again.
    func reload(tableOffset: Int, tableClusters: Int) throws(BlockError) {
        cache.discardAll()
        self.tableOffset = tableOffset
        self.tableClusters = tableClusters
        table = try BigEndianTable.read(
            file, at: tableOffset, count: (tableClusters << layout.clusterBits) / 8)
        dirtyTable = nil
        heldTable = nil
        blockFilter = nil
        growth = Growth()
        firstMaybeFree = HostCluster(0)
        virginCluster = max(virginCluster, layout.endCluster(ofFile: try file.length()))
    }

    // MARK: Without the lock

    /// Takes out changed entries of the table, to be written without the lock.
    func takeTableChanges() -> [TableWrites.Part] {
        (heldTable, dirtyTable) = (dirtyTable, nil)
        return heldTable.map { [BigEndianTable.part(table, $0, at: tableOffset)] } ?? []
    }

    /// Lets go of what was taken out; after a failure it is changed again.
    func settle(failed: Bool) {
        cache.settle(failed: failed)
        if failed { dirtyTable = dirtyTable.union(heldTable) }
        heldTable = nil
    }
}
