import BlockCore

/// An atomic change of snapshots, active tables and refcounts, by one write to the header's first sector.
///
/// A "copied" flag repeats in an L2 table that a refcount is one. If both were changed in place they would
/// contradict each other for a while, which checks call a corruption. Here both are written to new places.
///
/// Order of writes: 1. All changes that waited for the next flush; a barrier. 2. In free clusters: L2 tables
/// whose flags change, L1 tables, the snapshot table, and refcount blocks and table for the state after the
/// change. 3. A barrier; the header's sector; a barrier.
///
/// All that the old header refers to stays unchanged until the end: a crash leaves the state before or the
/// state after, without a leak, and a failure leaves nothing to repair. Used under the driver's lock.
struct Qcow2SnapshotSwitch {
    let tables: Qcow2State
    private let store: Qcow2Allocator
    /// The header after the change.
    var header: Qcow2Header
    /// The active L1 table after the change, and whether it is a new one.
    private var l1: [UInt64]
    private var hasNewL1 = false
    /// Tables to which nothing refers after the change.
    private var dropped: [Range<HostCluster>] = []

    private var layout: Qcow2Layout { tables.layout }

    /// - Parameter store: the allocator of the same image, in an atomic change (``Qcow2Allocator/Shadow``).
    private init(_ tables: Qcow2State, _ store: Qcow2Allocator) {
        self.tables = tables
        self.store = store
        header = tables.header
        l1 = tables.l1
    }

    /// Makes the changes of `body`, or none of them.
    static func run(
        _ tables: Qcow2State, _ body: (inout Qcow2SnapshotSwitch) throws(BlockError) -> Void
    ) throws(BlockError) {
        try tables.commit()
        try tables.writeRefcounts()
        try tables.barrier()
        let length = try tables.file.length()
        let firstMaybeFree = tables.loadedRefcounts?.firstMaybeFree ?? HostCluster(0)
        tables.loadedRefcounts = nil
        var isWritten = false
        do throws(BlockError) {
            let store = try tables.refcounts()
            try store.beginShadow(searchingFrom: firstMaybeFree)
            var change = Qcow2SnapshotSwitch(tables, store)
            try body(&change)
            try change.writeRefcounts()
            isWritten = true
            try change.switchHeader()
        } catch {
            tables.forgetShadow()
            // A failed change leaves only unused tables behind the old end of the file.
            if !isWritten { try? tables.file.resize(to: length) }
            throw error
        }
    }

    // MARK: Steps

    /// Makes a new snapshot share all clusters of the active table.
    ///
    /// - Returns: the L1 table for the snapshot.
    mutating func shareActive() throws(BlockError) -> [UInt64] {
        try rebuildActive(of: l1) { change, table, buffer throws(BlockError) in
            let isChanged = try change.shareEntries(of: buffer)
            guard isChanged else {
                try change.store.increment(change.layout.cluster(at: table))
                return UInt64(table.bytes)
            }
            let copy = try change.replace(table, with: buffer)
            try change.store.increment(change.layout.cluster(at: copy))
            return UInt64(copy.bytes)
        }
        return l1
    }

    /// Replaces the active table's entries by those of a snapshot, which then shares their clusters.
    mutating func activate(_ entries: [UInt64]) throws(BlockError) {
        try rebuildActive(of: entries) { change, table, buffer throws(BlockError) in
            let isChanged = try change.shareEntries(of: buffer)
            guard isChanged else {
                try change.store.increment(change.layout.cluster(at: table))
                return UInt64(table.bytes)
            }
            return UInt64(try change.add(buffer).bytes) | L2Entry.copiedFlag
        }
    }

    /// Sets the active "copied" flags where a cluster is shared no longer.
    mutating func setFlags() throws(BlockError) {
        try rebuildActive(of: l1) { change, table, buffer throws(BlockError) in
            if try change.updateFlags(buffer) {
                return UInt64(try change.replace(table, with: buffer).bytes) | L2Entry.copiedFlag
            }
            let count = try change.store.refcount(of: change.layout.cluster(at: table))
            return UInt64(table.bytes) | (count == 1 ? L2Entry.copiedFlag : 0)
        }
    }

    /// Takes a reference from all clusters below the L1 entries `entries`.
    func unshare(_ entries: [UInt64]) throws(BlockError) {
        try tables.eachL2Table(of: entries) { offset, buffer throws(BlockError) in
            for index in 0..<layout.entriesPerL2Table {
                let entry = layout.entry(index, of: buffer.bytes)
                if entry == .unallocated { continue }
                for cluster in try tables.clusters(of: entry) {
                    let isLast = try store.refcount(of: cluster) == 1
                    if isLast, try tables.holdsMetadata(cluster) { throw foreign(cluster) }
                    try take(cluster)
                }
            }
            let table = layout.cluster(at: offset)
            if try tables.holdsFixedMetadata(table) { throw foreign(table) }
            try take(table)
        }
    }

    /// Takes the reference to a table of `bytes` bytes at `offset`.
    mutating func drop(_ offset: Int, _ bytes: Int) throws(BlockError) {
        if bytes == 0 { return }
        let clusters = layout.clusters(at: HostOffset(offset), bytes: bytes)
        for cluster in clusters { try take(cluster) }
        dropped.append(clusters)
    }

    /// Writes an L1 table to a new place. Returns its offset.
    func write(_ entries: [UInt64]) throws(BlockError) -> Int { try tables.writeTableCopy(entries) }

    /// Replaces the snapshot table.
    mutating func setSnapshots(_ snapshots: [Qcow2Snapshot]) throws(BlockError) {
        let old = try tables.snapshotTable(checksPlaces: false).bytes
        try drop(header.snapshotsOffset, old)
        let placed = try tables.writeSnapshotTable(snapshots)
        header.snapshotCount = snapshots.count
        header.snapshotsOffset = placed
    }

    // MARK: The active tables

    /// Builds a new active L1 table from `entries`; `table` returns the new entry for each L2 table.
    private mutating func rebuildActive(
        of entries: [UInt64],
        _ table: (inout Qcow2SnapshotSwitch, _ offset: HostOffset, AlignedBuffer) throws(BlockError) -> UInt64
    ) throws(BlockError) {
        var new = entries
        let buffer = AlignedBuffer(count: layout.clusterSize)
        for index in entries.indices {
            guard let offset = try tables.checkedTable(entries[index], index) else {
                // Copied only where it changes: a table may take 32 MiB.
                if new[index] != 0 { new[index] = 0 }
                continue
            }
            var bytes = buffer.mutableBytes
            try tables.file.read(into: &bytes, at: offset.bytes)
            new[index] = try table(&self, offset, buffer)
        }
        guard new != tables.l1 else { return }
        l1 = new
        hasNewL1 = true
    }

    /// Adds a reference to all clusters of a table's entries, and clears the entries' "copied" flags.
    ///
    /// - Returns: whether any flag was set.
    private func shareEntries(of buffer: AlignedBuffer) throws(BlockError) -> Bool {
        var isChanged = false
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            if entry == .unallocated { continue }
            for cluster in try tables.clusters(of: entry) { try store.increment(cluster) }
            guard entry.isCopied, !entry.isCompressed else { continue }
            set(entry.raw & ~L2Entry.copiedFlag, entry, index, buffer)
            isChanged = true
        }
        return isChanged
    }

    /// Brings the "copied" flags of a table's entries in line with the refcounts.
    ///
    /// - Returns: whether any were changed.
    private func updateFlags(_ buffer: AlignedBuffer) throws(BlockError) -> Bool {
        var isChanged = false
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            guard !entry.isCompressed, entry.hostOffset != .zero else { continue }
            let isOwn = try store.refcount(of: layout.cluster(at: entry.hostOffset)) == 1
            guard isOwn != entry.isCopied else { continue }
            set(entry.raw ^ L2Entry.copiedFlag, entry, index, buffer)
            isChanged = true
        }
        return isChanged
    }

    private func set(_ raw: UInt64, _ entry: L2Entry, _ index: Int, _ buffer: AlignedBuffer) {
        var bytes = buffer.mutableBytes
        layout.store(L2Entry(raw: raw, bitmap: entry.bitmap), index, in: &bytes)
    }

    /// Writes an L2 table to a new place.
    private func add(_ buffer: AlignedBuffer) throws(BlockError) -> HostOffset {
        let offset = layout.offset(of: try store.allocate(1))
        try tables.file.write(buffer.bytes, at: offset.bytes)
        return offset
    }

    private mutating func replace(
        _ table: HostOffset, with buffer: AlignedBuffer
    ) throws(BlockError) -> HostOffset {
        try drop(table.bytes, layout.clusterSize)
        return try add(buffer)
    }

    private func take(_ cluster: HostCluster) throws(BlockError) {
        guard try store.refcount(of: cluster) > 0 else {
            throw tables.corrupt("Cluster \(cluster) is in use and not counted")
        }
        try store.decrement(cluster)
    }

    private func foreign(_ cluster: HostCluster) -> BlockError {
        tables.corrupt("A table entry refers to metadata at cluster \(cluster)")
    }

    // MARK: The end

    /// Writes the new L1 table, and the refcounts of the state after the change.
    private mutating func writeRefcounts() throws(BlockError) {
        if hasNewL1 {
            try drop(header.l1Offset, header.l1Entries * 8)
            header.l1Offset = try write(l1)
            header.l1Entries = l1.count
        }
        try drop(header.refcountTableOffset, header.refcountTableClusters << layout.clusterBits)
        try store.placeTable()
        header.refcountTableOffset = store.tableOffset
        header.refcountTableClusters = store.tableClusters
        try tables.barrier()
    }

    /// Makes the header refer to the new tables.
    private mutating func switchHeader() throws(BlockError) {
        do throws(BlockError) {
            try tables.file.write(header.fixedBytes().span.bytes, at: 0)
            try tables.barrier()
        } catch {
            try takeBack(error)
        }
        tables.adoptSwitch(header, l1)
        dropped += store.endShadow()
        guard tables.passesDiscards.ofOthers else { return }
        for clusters in dropped {
            for cluster in clusters where (try? store.refcount(of: cluster)) == 0 {
                try? tables.file.discard(at: layout.offset(of: cluster).bytes, count: layout.clusterSize)
            }
        }
    }

    /// Writes the old header again after the new one could not be written. Where that fails too, the file may
    /// have either. Both are sound, as long as nothing else is written before the old header is.
    private func takeBack(_ failure: BlockError) throws(BlockError) {
        do throws(BlockError) {
            try tables.file.write(tables.header.fixedBytes().span.bytes, at: 0)
            try tables.barrier()
        } catch {
            tables.headerIsUncertain = true
            tables.hasUnflushedWrites = true
        }
        throw failure
    }
}

extension Qcow2State {
    /// Drops the changes after a failure: the file has the old state, and refcounts are loaded from it when
    /// needed.
    fileprivate func forgetShadow() {
        loadedRefcounts = nil
        protection = nil
        knownEnd = 0
    }

    /// Adopts the header and the active table that the file has after the change.
    fileprivate func adoptSwitch(_ changed: Qcow2Header, _ entries: [UInt64]) {
        header = changed
        l1 = entries
        dirtyL1 = nil
        l2Cache.discardAll()
        freeByteOffset = .zero
        protection = nil
        knownEnd = 0
    }
}
