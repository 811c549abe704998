import BlockCore

/// Writing refcounts to the file.
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
        // Only the table's entries for new blocks differ from the file.
        file.emit(.refcountBlockHookup)
        file.emit(.refcountTableUpdate)
        try BigEndianTable.write(table, dirty, to: file, at: tableOffset)
        dirtyTable = nil
    }

    /// Drops all changes and everything cached, and reads the table again.
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

    /// Takes the changed entries out of the table, to be written without the lock.
    func takeTableChanges() -> [TableWrites.Part] {
        (heldTable, dirtyTable) = (dirtyTable, nil)
        return heldTable.map { [BigEndianTable.part(table, $0, at: tableOffset)] } ?? []
    }

    /// Ends the writing of entries that were taken out; after a failure they count as changed again.
    func settle(failed: Bool) {
        cache.settle(failed: failed)
        if failed { dirtyTable = dirtyTable.union(heldTable) }
        heldTable = nil
    }
}
