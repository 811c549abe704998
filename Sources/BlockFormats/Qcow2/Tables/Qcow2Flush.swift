import BlockCore

/// A flush does not keep the tables' lock while the file is written: see ``TableWrites``.
extension Qcow2State {
    /// The changes that a flush takes out besides those of the caches.
    struct Held {
        var l1: Range<Int>?
        var frees: [PendingFree] = []
    }

    /// Takes the changes out, to be written in the same order as by ``commit()``. A refcount table that moves
    /// is written, and the file flushed, under the lock: other changes write the header's sector too, and
    /// entries that the table gets meanwhile would belong to neither place. It happens once in thousands of
    /// blocks.
    func takeChanges() throws(BlockError) -> TableWrites? {
        try checkSound()
        if headerIsUncertain { try restoreHeader() }
        if let store = loadedRefcounts, needsRefcountTable(store) {
            // Data written in place leaves no trace in the tables.
            hasUnflushedWrites = true
            try commit()
            return nil
        }
        try padCompressedEnd()
        let store = refcountsAreLazy ? nil : loadedRefcounts
        let blocks = store?.cache.takeChanges() ?? []
        let steps = [
            TableWrites.Step(
                parts: store?.takeTableChanges() ?? [], events: [.refcountBlockHookup, .refcountTableUpdate]),
            TableWrites.Step(parts: l2Cache.takeChanges(), events: [.l2Update]),
            TableWrites.Step(parts: takeL1Changes(), events: [.l1Update]),
        ]
        if !blocks.isEmpty { file.emit(.refcountBlockUpdate) }
        let writes = TableWrites(
            steps, to: file, first: blocks, dataFile: data.isExternal ? data.node : nil)
        store?.cache.hold(for: writes)
        l2Cache.hold(for: writes)
        (held.frees, pendingFrees) = (pendingFrees, [])
        hasUnflushedWrites = false
        return writes
    }

    private func takeL1Changes() -> [TableWrites.Part] {
        (held.l1, dirtyL1) = (dirtyL1, nil)
        return held.l1.map { [BigEndianTable.part(l1, $0, at: header.l1Offset)] } ?? []
    }

    func settle(failed: Bool) {
        let done = held
        held = Held()
        l2Cache.settle(failed: failed)
        loadedRefcounts?.settle(failed: failed)
        guard !failed else {
            dirtyL1 = dirtyL1.union(done.l1)
            pendingFrees = done.frees + pendingFrees
            hasUnflushedWrites = true
            return
        }
        guard !done.frees.isEmpty else { return }
        let waiting = pendingFrees
        pendingFrees = done.frees
        // Clusters that cannot be freed now wait for the next commit.
        var failures = FirstFailure()
        failures.note { () throws(BlockError) in try applyFrees() }
        pendingFrees += waiting
        if let store = loadedRefcounts, store.dirtyTable == nil, !needsRefcountTable(store) {
            failures.note { () throws(BlockError) in try commitRefcounts() }
        }
        do throws(BlockError) {
            try failures.throwFirst()
            freeFailure = nil
        } catch {
            freeFailure = freeFailure ?? error
        }
    }
}
