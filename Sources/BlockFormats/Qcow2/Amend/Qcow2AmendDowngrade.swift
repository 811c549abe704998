import BlockCore

/// Conversion to version 2, which has 16-bit refcounts, no feature bits and no zero flag.
extension Qcow2State {
    /// Whether version 2 can hold the image, with a disk of `size` bytes.
    ///
    /// - Throws: `unsupported`, naming the feature that version 2 lacks.
    func checkDowngrade(to size: Int) throws(BlockError) {
        if header.incompatible.contains(.dataFile) {
            throw BlockError(.unsupported, "Cannot downgrade an image with a data file")
        }
        for snapshot in try snapshotTable().snapshots {
            guard snapshot.info.virtualSize ?? size == size,
                UInt32(exactly: snapshot.info.vmStateSizeBytes) != nil
            else { throw BlockError(.unsupported, "Internal snapshots prevent downgrade of image") }
        }
        let features = header.incompatible.subtracting([.dirty, .compressionType])
        guard features.isEmpty else {
            let bits = String(features.rawValue, radix: 16)
            throw BlockError(
                .unsupported, "Cannot downgrade an image with incompatible features 0x\(bits) set")
        }
        if hasChanges { try commit() }
        try checkConsistency()
        if header.compressionType != .zlib, try hasCompressedClusters() {
            throw BlockError(
                .unsupported,
                "Cannot downgrade an image with \(header.compressionType.name) compression type and existing "
                    + "compressed clusters")
        }
    }

    /// Whether anything is compressed in the disk or a snapshot. Reads the file.
    private func hasCompressedClusters() throws(BlockError) -> Bool {
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var visited = VisitedTables()
        var isFound = false
        try eachL1 { entries, _ throws(BlockError) in
            for index in entries.indices where !isFound {
                guard let table = try checkedTable(entries[index], index),
                    visited.isFirstVisit(of: table.bytes)
                else { continue }
                var bytes = buffer.mutableBytes
                try file.read(into: &bytes, at: table.bytes)
                isFound = (0..<layout.entriesPerL2Table).contains { number in
                    layout.entry(number, of: buffer.bytes).isCompressed
                }
            }
        }
        return isFound
    }

    /// Refuses a damaged image: the expansion of zero clusters relies on refcounts and tables.
    private func checkConsistency() throws(BlockError) {
        let result = try check(.none) { _ in }
        guard result.corruptions == 0, result.checkErrors == 0 else {
            throw BlockError(
                .corrupt, "Cannot downgrade an image with \(result.corruptions) errors",
                path: file.filename, hint: "Repair it with 'check -r all'.")
        }
    }

    /// The size of the L2 tables that have to be read, in bytes.
    func downgradeWorkBytes() throws(BlockError) -> Int {
        var tables = 0
        try eachL1 { entries, _ in
            tables += entries.reduce(0) { $1 & L2Entry.offsetMask == 0 ? $0 : $0 + 1 }
        }
        return tables << layout.clusterBits
    }

    /// The active L1 table and those of the snapshots.
    private func eachL1(
        _ body: (_ entries: [UInt64], _ isActive: Bool) throws(BlockError) -> Void
    ) throws(BlockError) {
        try body(l1, true)
        for snapshot in try snapshotTable().snapshots { try body(try snapshotL1(snapshot), false) }
    }

    /// Converts the image to version 2.
    ///
    /// Order of writes:
    /// 1. The zeroes and refcounts of expanded zero clusters; a barrier.
    /// 2. Their entries: valid in version 3 too; a barrier.
    /// 3. The header.
    func downgrade(_ guest: GuestAccess, _ control: JobControl) throws(BlockError) {
        try protectMetadata()
        let expansion = ZeroExpansion(tables: self, disk: guest, hasBackingName: header.backing != nil)
        try eachL1 { entries, isActive throws(BlockError) in
            for index in entries.indices {
                guard let table = try checkedTable(entries[index], index) else { continue }
                try control.checkpoint(moving: 0)
                try expansion.expand(
                    table: table, guest: index * layout.guestBytesPerL2Table, isActive: isActive)
                control.advance(by: layout.clusterSize)
            }
        }
        try commit()
        var changed = header
        changed.version = 2
        changed.headerLength = Qcow2Header.version2Length
        changed.incompatible = []
        changed.compressionType = .zlib
        changed.compatible = 0
        changed.autoclear = 0
        changed.wantsLazyRefcounts = nil
        changed.unknownFields = []
        changed.extensions.removeAll { $0.type == Qcow2.ExtensionType.featureNames }
        try replaceHeader(with: changed)
    }
}

extension Qcow2Driver {
    /// Removes all bitmaps, which version 2 does not have. Durable on return. Order of writes: the header
    /// without them, then their clusters are freed.
    func dropBitmaps(_ warn: (String) -> Void) throws(BlockError) {
        let names = try exclusively { tables throws(BlockError) -> [String] in
            var set = try tables.bitmapSet()
            guard tables.header.extensionData(Qcow2.ExtensionType.bitmaps) != nil || !set.items.isEmpty else {
                return []
            }
            let names = set.items.map(\.name)
            set.removed += set.items.filter { $0.stored != nil }
            set.items = []
            set.isChanged = true
            tables.bitmaps = set
            try tables.storeBitmaps()
            changes.arm(false)
            return names
        }
        if names.isEmpty { return }
        let more = names.count > Self.namedBitmaps ? " and \(names.count - Self.namedBitmaps) more" : ""
        let list = names.prefix(Self.namedBitmaps).map { "'\($0)'" }.joined(separator: ", ")
        warn("compat=0.10 has no bitmaps; removed: \(list)\(more)")
    }

    /// The most bitmaps that a warning names.
    private static let namedBitmaps = 8
}

/// Replaces the zero flag: by an unallocated entry where there is no backing file, else by a cluster of
/// zeroes.
private struct ZeroExpansion {
    let tables: Qcow2State
    let disk: GuestAccess
    /// Whether the image names a backing file, which need not be open.
    let hasBackingName: Bool

    private var layout: Qcow2Layout { tables.layout }

    /// Expands the entries of one L2 table, which snapshots may share. It is changed in place, because it
    /// keeps its meaning.
    func expand(table: HostOffset, guest: Int, isActive: Bool) throws(BlockError) {
        let store = try tables.refcounts()
        let cluster = layout.cluster(at: table)
        let isForeign =
            tables.protection?.areas.contains(cluster) == true
            || store.table.contains { layout.offset(in: $0) == table }
        guard !isForeign else { throw tables.condemn("An L1 entry refers to metadata at cluster \(cluster)") }
        let users = try store.refcount(of: cluster)
        for index in 0..<layout.entriesPerL2Table {
            let (slot, entry) = try tables.l2Slot(table: table, index: index)
            let raw = L2Entry(raw: tables.l2Cache.bigEndian64(slot, entry))
            let kind = raw.kind(layout)
            guard kind == .zeroPlain || kind == .zeroAllocated else { continue }
            let start = guest + index << layout.clusterBits
            let new = try expanded(raw, guest: start, users: users, mayBeOwn: isActive && users == 1)
            let (newSlot, newEntry) = try tables.l2Slot(table: table, index: index)
            tables.l2Cache.setBigEndian64(newSlot, newEntry, to: new.raw)
            if new.hostOffset != raw.hostOffset { release(raw, users) }
        }
    }

    private func hasBelow(_ guest: Int) -> Bool {
        guard hasBackingName else { return false }
        if !disk.hasBackingNode { return true }
        return disk.hasBacking(in: guest..<guest + layout.clusterSize)
    }

    private func release(_ entry: L2Entry, _ users: UInt64) {
        for _ in 0..<users { tables.release(entry) }
    }

    /// The replacement for an entry with the zero flag, in a table to which `users` L1 tables refer.
    private func expanded(
        _ entry: L2Entry, guest: Int, users: UInt64, mayBeOwn: Bool
    ) throws(BlockError) -> L2Entry {
        guard hasBelow(guest) else { return .unallocated }
        let store = try tables.refcounts()
        if entry.hostOffset != .zero {
            try tables.checkDataOffset(entry, guest: GuestOffset(guest))
            try tables.checkGuestClusters(entry.hostOffset, count: 1)
            // Only entries of this table refer to the cluster, with the zero flag: its bytes may change.
            if try store.refcount(of: layout.cluster(at: entry.hostOffset)) == users {
                try fill(entry.hostOffset, guest)
                return L2Entry(raw: entry.raw & ~L2Entry.zeroFlag)
            }
        }
        let cluster = try store.allocate(1)
        let offset = layout.offset(of: cluster)
        try fill(offset, guest)
        if users != 1 { try store.set(cluster, to: users) }
        let raw = UInt64(offset.bytes)
        return L2Entry(raw: mayBeOwn ? raw | L2Entry.copiedFlag : raw)
    }

    private func fill(_ hostOffset: HostOffset, _ guest: Int) throws(BlockError) {
        try tables.data.writeZeroes(at: hostOffset.bytes, count: layout.clusterSize, guest: guest)
        tables.hasUnflushedWrites = true
    }
}
