import BlockCore

/// Snapshots share clusters with the active state by refcounts.
///
/// Each change is atomic (``Qcow2SnapshotSwitch``): after a crash the image has the state before or the one
/// after. Only a deletion without space for new tables changes them in place. Order of writes then: the dirty
/// bit (version 3); the lower refcounts; then "copied" flags, so that a crash never leaves a shared cluster
/// that looks unshared.
extension Qcow2Driver: SnapshotCapable {
    public func snapshots() throws(BlockError) -> [SnapshotInfo] {
        try metadata.withLock { tables throws(BlockError) -> [SnapshotInfo] in
            try tables.snapshotTable().snapshots.map(\.info)
        }
    }

    /// One more than the highest id that is a number of 32 bits; other ids do not count.
    private static func freeID(beside snapshots: [Qcow2Snapshot]) -> String {
        let taken = Set(snapshots.map(\.info.id))
        var next = UInt64(taken.compactMap { UInt32($0) }.max() ?? 0) + 1
        while taken.contains(String(next)) { next += 1 }
        return String(next)
    }

    public func createSnapshot(_ info: SnapshotInfo) throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            try tables.checkMayChange()
            try tables.checkMayShare()
            var snapshots = try tables.snapshotTable().snapshots
            guard snapshots.count < Qcow2.Limit.snapshots else {
                throw BlockError(.limit, "Too many snapshots", path: file.filename)
            }
            var info = info
            if info.id.isEmpty { info.id = Self.freeID(beside: snapshots) }
            info.virtualSize = tables.header.virtualSize
            if info.vmStateSizeBytes == 0 { info.vmStateSizeBytes = tables.savedStateBytes }
            guard info.id.rawBytes.count <= 0xffff, info.name.rawBytes.count <= 0xffff else {
                throw BlockError(.invalidArgument, "The snapshot's name is too long", path: file.filename)
            }
            try Qcow2SnapshotSwitch.run(tables) { change throws(BlockError) in
                let l1 = try change.shareActive()
                let start = try change.write(l1)
                snapshots.append(Qcow2Snapshot(l1Offset: start, l1Entries: l1.count, info: info))
                try change.setSnapshots(snapshots)
            }
            if info.vmStateSizeBytes > 0 { try tables.dropState() }
        }
    }

    public func applySnapshot(_ idOrName: String) throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            try tables.checkMayChange()
            let snapshot = try tables.findSnapshot(idOrName)
            try tables.refuseWithBitmaps()
            try tables.checkMayShare()
            let size = snapshot.info.virtualSize ?? tables.header.virtualSize
            guard size <= Qcow2.Limit.virtualSize else {
                throw tables.corrupt("The snapshot's disk size is invalid")
            }
            try tables.commit()
            let entries = max(snapshot.l1Entries, layout.l1Entries(forVirtualSize: size))
            // Changed in place, without a copy: a table may take 32 MiB.
            var target = try tables.snapshotL1(snapshot)
            for index in target.indices { target[index] &= ~L2Entry.copiedFlag }
            if target.count < entries {
                target += [UInt64](repeating: 0, count: entries - target.count)
            }
            let replaced = tables.l1
            try Qcow2SnapshotSwitch.run(tables) { change throws(BlockError) in
                try change.unshare(replaced)
                try change.activate(target)
                change.header.virtualSize = size
            }
            tables.discardUnused(replaced)
            tables.savedStateBytes = 0
        }
    }

    public func deleteSnapshot(named name: String) throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            try tables.checkMayChange()
            var snapshots = try tables.snapshotTable().snapshots
            guard let index = snapshots.firstIndex(where: { $0.info.name.isSameName(as: name) }) else {
                throw BlockError(.notFound, "snapshot not found", path: file.filename)
            }
            try tables.checkMayShare()
            let doomed = snapshots.remove(at: index)
            let entries = try tables.snapshotL1(doomed)
            try tables.commit()
            let isSound = try tables.canRelease(doomed, entries)
            do throws(BlockError) {
                guard isSound else { return try tables.delete(doomed, entries, leaving: snapshots, isSound) }
                try Qcow2SnapshotSwitch.run(tables) { change throws(BlockError) in
                    try change.unshare(entries)
                    try change.drop(doomed.l1Offset, doomed.l1Entries * 8)
                    try change.setSnapshots(snapshots)
                    try change.setFlags()
                }
                tables.discardUnused(entries)
            } catch {
                // On a full disk a snapshot is deleted to gain space, so this has to work without new tables.
                guard error.kind == .noSpace, isSound else { throw error }
                try tables.delete(doomed, entries, leaving: snapshots, isSound)
            }
        }
    }

    public func selectSnapshot(id: String?, name: String?) throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            guard tables.isReadOnly else {
                throw BlockError(.invalidArgument, "Device is not readonly", path: file.filename)
            }
            let all = try tables.snapshotTable().snapshots
            let found = all.first { snapshot in
                id.map(snapshot.info.id.isSameName) ?? true && name.map(snapshot.info.name.isSameName) ?? true
            }
            guard let found, id != nil || name != nil else {
                throw BlockError(.notFound, "Can't find snapshot", path: file.filename)
            }
            let size = found.info.virtualSize ?? tables.header.virtualSize
            guard size <= Qcow2.Limit.virtualSize, found.l1Entries >= layout.l1Entries(forVirtualSize: size)
            else { throw tables.corrupt("The snapshot's L1 table is too small for its disk size") }
            tables.l1 = try tables.snapshotL1(found)
            tables.l2Cache.discardAll()
            tables.selectedSize = size
        }
    }
}

extension Qcow2State {
    /// Refuses snapshots with a data file: every guest cluster has one place there and cannot be shared.
    func checkMayShare() throws(BlockError) {
        if data.isExternal { throw BlockError(.unsupported, "Operation not supported", path: file.filename) }
    }

    fileprivate func checkMayChange() throws(BlockError) {
        if isReadOnly { throw BlockError(.readOnly, "Block node is read-only", path: file.filename) }
        try protectMetadata()
    }

    /// The snapshot with that id, or else that name.
    fileprivate func findSnapshot(_ idOrName: String) throws(BlockError) -> Qcow2Snapshot {
        let all = try snapshotTable().snapshots
        guard
            let found = all.first(where: { $0.info.id.isSameName(as: idOrName) })
                ?? all.first(where: { $0.info.name.isSameName(as: idOrName) })
        else { throw BlockError(.notFound, "snapshot not found", path: file.filename) }
        return found
    }

    /// A snapshot's L1 table, which must lie inside the file.
    func snapshotL1(_ snapshot: Qcow2Snapshot) throws(BlockError) -> [UInt64] {
        try checkInFile(snapshot, layout.clusters(try file.length()))
        let entries = try readL1(of: snapshot)
        try checkRepeats(entries)
        return entries
    }

    /// - Throws: `limit` for an L1 table that uses L2 tables again and again.
    func checkRepeats(_ entries: [UInt64]) throws(BlockError) {
        var repeats = TableRepeats(capacity: entries.count)
        for entry in entries { repeats.note((entry & L2Entry.offsetMask) >> UInt64(layout.clusterBits)) }
        let parts = layout.hasSubclusters ? Qcow2.subclusters : 1
        try repeats.check(entriesPerTable: layout.entriesPerL2Table * parts, path: file.filename)
    }

    /// A snapshot's L1 table; zeroes behind the end of the file.
    func readL1(of snapshot: Qcow2Snapshot) throws(BlockError) -> [UInt64] {
        try BigEndianTable.read(file, at: snapshot.l1Offset, count: snapshot.l1Entries)
    }

    /// Deletes a snapshot in place: its references are released one by one, or, where its tables are damaged,
    /// by counting all references anew.
    fileprivate func delete(
        _ doomed: Qcow2Snapshot, _ entries: [UInt64], leaving snapshots: [Qcow2Snapshot], _ isSound: Bool
    ) throws(BlockError) {
        try withDirtyBit { () throws(BlockError) in
            try replaceSnapshotTable(snapshots)
            guard isSound else { return try releaseUnused() }
            try unshareClusters(of: entries)
            release(
                layout.cluster(at: HostOffset(doomed.l1Offset)), count: layout.clusters(doomed.l1Entries * 8),
                discards: passesDiscards.ofSnapshots)
            try commit()
            try setCopiedFlags()
            try commit()
        }
    }

    /// Gives the space of clusters to which only a dropped L1 table referred back to the file system.
    fileprivate func discardUnused(_ entries: [UInt64]) {
        guard passesDiscards.ofSnapshots, let store = try? refcounts() else { return }
        func discard(_ cluster: HostCluster) {
            guard (try? store.refcount(of: cluster)) == 0 else { return }
            try? file.discard(at: layout.offset(of: cluster).bytes, count: layout.clusterSize)
        }
        // Where that fails the space stays unused.
        try? eachL2Table(of: entries) { offset, buffer throws(BlockError) in
            for index in 0..<layout.entriesPerL2Table {
                let entry = layout.entry(index, of: buffer.bytes)
                guard entry != .unallocated, let unused = try? self.clusters(of: entry) else { continue }
                for cluster in unused { discard(cluster) }
            }
            discard(layout.cluster(at: offset))
        }
    }

    /// Runs `body` with the dirty bit set, where there is one; it stays set when `body` fails.
    fileprivate func withDirtyBit(_ body: () throws(BlockError) -> Void) throws(BlockError) {
        let wasDirty = header.incompatible.contains(.dirty)
        try setDirty(true)
        do throws(BlockError) { try body() } catch {
            needsRepair = true
            throw error
        }
        if !wasDirty { try setDirty(false) }
    }

    /// Writes a copy of an L1 table to a new place. Returns its offset; 0 for a table without entries.
    func writeTableCopy(_ entries: [UInt64]) throws(BlockError) -> Int {
        // A cluster for a table without entries would never be counted or freed.
        if entries.isEmpty { return 0 }
        return try fillingNewClusters(layout.clusters(entries.count * 8)) { start throws(BlockError) in
            try BigEndianTable.write(entries, to: file, at: start)
            try padTable(start, entries.count * 8)
            hasUnflushedWrites = true
        }
    }

    /// Calls `body` with every L2 table that an L1 table refers to, loaded into one reused buffer.
    func eachL2Table(
        of l1: [UInt64], _ body: (_ offset: HostOffset, _ bytes: AlignedBuffer) throws(BlockError) -> Void
    ) throws(BlockError) {
        let buffer = AlignedBuffer(count: layout.clusterSize)
        for index in l1.indices {
            guard let offset = try checkedTable(l1[index], index) else { continue }
            var bytes = buffer.mutableBytes
            try file.read(into: &bytes, at: offset.bytes)
            try body(offset, buffer)
        }
    }

    /// The clusters that an L2 entry refers to.
    func clusters(of entry: L2Entry) throws(BlockError) -> Range<HostCluster> {
        let none = HostCluster(0)..<HostCluster(0)
        switch entry.kind(layout) {
        case .unallocated, .zeroPlain: return none
        case .data, .zeroAllocated:
            // Clusters of a data file are not counted.
            if data.isExternal { return none }
            let cluster = layout.cluster(at: entry.hostOffset)
            guard layout.isAligned(entry.hostOffset) else {
                throw corrupt("Data cluster offset 0x\(hex(entry.hostOffset)) unaligned")
            }
            return cluster..<cluster + 1
        case .compressed:
            return entry.compressedClusters(layout)
        }
    }

    /// Whether all references of a snapshot's tables lie in the file and have refcounts above zero.
    fileprivate func canRelease(_ snapshot: Qcow2Snapshot, _ l1: [UInt64]) throws(BlockError) -> Bool {
        let store = try refcounts()
        let own = layout.clusters(at: HostOffset(snapshot.l1Offset), bytes: l1.count * 8)
        do throws(BlockError) {
            for cluster in own
            where try store.refcount(of: cluster) == 0 { return false }
            try eachReference(of: l1) { cluster throws(BlockError) in
                let refcount = try store.refcount(of: cluster)
                let isMetadata = refcount == 1 ? try holdsMetadata(cluster) : false
                if refcount == 0 || isMetadata { throw corrupt("Not the snapshot's own") }
            }
            return true
        } catch {
            if error.kind == .io { throw error }
            return false
        }
    }

    /// Frees unreferenced clusters by counting all references anew, where the dropped tables are damaged. If
    /// that count is ambiguous all of them stay leaked.
    fileprivate func releaseUnused() throws(BlockError) {
        try commit()
        _ = try check(.all, isAutomatic: true) { _ in }
    }

    /// Calls `body` for every reference below an L1 table: clusters of L2 entries, then the L2 table's own.
    private func eachReference(
        of l1: [UInt64], _ body: (_ cluster: HostCluster) throws(BlockError) -> Void
    ) throws(BlockError) {
        try eachL2Table(of: l1) { offset, bytes throws(BlockError) in
            for index in 0..<layout.entriesPerL2Table {
                let entry = L2Entry(raw: bytes.bytes.bigEndian(at: index * layout.l2EntryBytes) ?? 0)
                if entry == .unallocated { continue }
                for cluster in try clusters(of: entry) { try body(cluster) }
            }
            try body(layout.cluster(at: offset))
        }
    }

    /// Releases all that an L1 table refers to.
    func unshareClusters(of l1: [UInt64]) throws(BlockError) {
        let discards = passesDiscards.ofSnapshots
        try eachL2Table(of: l1) { offset, bytes throws(BlockError) in
            for index in 0..<layout.entriesPerL2Table {
                let entry = L2Entry(raw: bytes.bytes.bigEndian(at: index * layout.l2EntryBytes) ?? 0)
                if entry != .unallocated { release(entry, discards: discards) }
            }
            release(layout.cluster(at: offset), count: 1, discards: discards)
            if hasTooManyFrees { try commit() }
        }
    }

    /// Sets the "copied" flags of the active tables by the refcounts, durably.
    private func setCopiedFlags() throws(BlockError) {
        try commit()
        let store = try refcounts()
        for index in l1.indices {
            guard let table = try checkedTable(l1[index], index) else { continue }
            try setCopiedFlags(table: table, store)
            let isOwn = try store.refcount(of: layout.cluster(at: table)) == 1
            let entry = isOwn ? l1[index] | L2Entry.copiedFlag : l1[index] & ~L2Entry.copiedFlag
            if entry != l1[index] { setL1(index, to: entry) }
        }
        try commit()
        try barrier()
    }

    private func setCopiedFlags(table: HostOffset, _ store: Qcow2Allocator) throws(BlockError) {
        for index in 0..<layout.entriesPerL2Table {
            let (slot, entry) = try l2Slot(table: table, index: index)
            let old = cachedEntry(slot, entry)
            guard !old.isCompressed, old.hostOffset != .zero else { continue }
            let isOwn = try store.refcount(of: layout.cluster(at: old.hostOffset)) == 1
            let new = isOwn ? old.raw | L2Entry.copiedFlag : old.raw & ~L2Entry.copiedFlag
            if new != old.raw { setCachedEntry(slot, entry, to: L2Entry(raw: new, bitmap: old.bitmap)) }
        }
    }
}
