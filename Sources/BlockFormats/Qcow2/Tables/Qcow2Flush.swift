import BlockCore

/// A flush does not keep the tables' lock while the file is written: see ``TableWrites``.
extension Qcow2Metadata {
    /// What was taken out besides parts of the caches.
    struct Held {
        var l1: Range<Int>?
        var frees: [PendingFree] = []
    }

    /// In the same order as ``commit()``. A refcount table that moves is written with the lock: the header
    /// follows it.
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
        // What cannot be freed now waits for the next commit.
        try? applyFrees()
        pendingFrees += waiting
        guard let store = loadedRefcounts, store.dirtyTable == nil, !needsRefcountTable(store) else { return }
        try? commitRefcounts()
    }
}

extension RefcountStore {
    /// Takes out changed entries of the table, to be written without the lock.
    fileprivate func takeTableChanges() -> [TableWrites.Part] {
        (heldTable, dirtyTable) = (dirtyTable, nil)
        return heldTable.map { [BigEndianTable.part(table, $0, at: tableOffset)] } ?? []
    }

    /// Lets go of what was taken out; after a failure it is changed again.
    fileprivate func settle(failed: Bool) {
        cache.settle(failed: failed)
        if failed { dirtyTable = dirtyTable.union(heldTable) }
        heldTable = nil
    }
}

extension Range<Int>? {
    /// The smallest range with both in it.
    fileprivate func union(_ other: Range<Int>?) -> Range<Int>? {
        guard let self, let other else { return self ?? other }
        return Swift.min(self.lowerBound, other.lowerBound)..<Swift.max(self.upperBound, other.upperBound)
    }
}
