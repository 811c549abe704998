import BlockCore

/// Mends what no count of references can mend: entries of L1 and L2 tables that point nowhere, and bits that
/// mean nothing. What is lost by it is told, by guest offset.
///
/// An entry lies in one sector: after a crash each is old or new, and the next repair goes on.
extension Qcow2Checker {
    /// - Returns: whether anything was changed.
    mutating func mendTables(_ report: (String) -> Void) throws(BlockError) -> Bool {
        // While it is not known what lies where, what looks like a table may be anything.
        guard let all = try? soundSnapshots(), let areas = try? areas(with: all) else { return false }
        let snapshots = distinctTables(all).kept
        doubtful = try findDoubtful(snapshots, areas)
        var active = tables.l1
        var visited = VisitedTables()
        var isChanged = try mendTree(
            nil, &active, at: tables.header.l1Offset, areas, &visited, report)
        tables.l1 = active
        for snapshot in snapshots {
            var l1 = try tables.readL1(of: snapshot)
            let isMended = try mendTree(snapshot, &l1, at: snapshot.l1Offset, areas, &visited, report)
            isChanged = isChanged || isMended
        }
        if isChanged {
            tables.protection = nil
            try tables.barrier()
        }
        return isChanged
    }

    /// The snapshots whose L1 tables lie where they can be read.
    func soundSnapshots() throws(BlockError) -> [Qcow2Snapshot] {
        try tables.snapshotTable(checksPlaces: false).snapshots.compactMap { placed($0) }
    }

    /// A snapshot with as much of its L1 table as the file has; `nil` when it has none of it.
    func placed(_ snapshot: Qcow2Snapshot) -> Qcow2Snapshot? {
        var placed = snapshot
        if snapshot.l1Entries > Qcow2.Limit.l1TableBytes / 8 {
            let size = snapshot.info.virtualSize ?? tables.header.virtualSize
            placed.l1Entries = layout.l1Entries(forVirtualSize: size)
        }
        guard tables.placeProblem(of: placed) == nil else { return nil }
        let room = fileClusters << layout.clusterBits - placed.l1Offset
        guard placed.l1Entries == 0 || room > 0 else { return nil }
        placed.l1Entries = min(placed.l1Entries, max(0, room) / 8)
        return placed
    }

    private func areas(with snapshots: [Qcow2Snapshot]) throws(BlockError) -> ClusterRanges {
        let table = try tables.snapshotTable(checksPlaces: false).bytes
        let places =
            [(tables.header.snapshotsOffset, table)] + snapshots.map { ($0.l1Offset, $0.l1Entries * 8) }
        let own = places.filter { $0.1 > 0 }.map { offset, bytes in
            let first = offset >> layout.clusterBits
            return first..<first + layout.clusters(bytes)
        }
        return ClusterRanges(tables.knownAreas() + own + ((try? tables.bitmapAreas()) ?? []))
    }

    // MARK: What may be something else

    /// Clusters with tables in them that are used otherwise too.
    private mutating func findDoubtful(
        _ snapshots: [Qcow2Snapshot], _ areas: ClusterRanges
    ) throws(BlockError) -> ClusterFilter {
        var known = ClusterFilter()
        var doubtful = ClusterFilter()
        for area in areas.merged { known.insert(area) }
        for area in areas.overlaps { doubtful.insert(area) }
        var inTables = known
        func note(_ entries: [UInt64]) {
            for entry in entries where entry & L2Entry.offsetMask != 0 {
                let cluster = Int(entry & L2Entry.offsetMask) >> layout.clusterBits
                if known.mayContain(cluster) { doubtful.insert(cluster) }
                inTables.insert(cluster)
            }
        }
        note(try tables.refcounts().table)
        note(tables.l1)
        for snapshot in snapshots { note(try tables.readL1(of: snapshot)) }
        var visited = VisitedTables()
        try noteData(of: tables.l1, inTables, &visited, &doubtful)
        for snapshot in snapshots {
            try noteData(of: try tables.readL1(of: snapshot), inTables, &visited, &doubtful)
        }
        try eachBitmapCluster { cluster in
            if inTables.mayContain(cluster) { doubtful.insert(cluster) }
        }
        return doubtful
    }

    /// Tables in clusters that L2 entries call data are in doubt.
    private mutating func noteData(
        of l1: [UInt64], _ inTables: ClusterFilter, _ visited: inout VisitedTables,
        _ doubtful: inout ClusterFilter
    ) throws(BlockError) {
        var found: [Int] = []
        try eachTable(of: l1, outside: ClusterRanges([]), visited: &visited) { checker, buffer, _ in
            let layout = checker.layout
            for index in 0..<layout.entriesPerL2Table {
                let entry = layout.entry(index, of: buffer.bytes)
                for cluster in entry.hostClusters(layout) where inTables.mayContain(cluster) {
                    found.append(cluster)
                }
            }
            for cluster in found { doubtful.insert(cluster) }
            found.removeAll(keepingCapacity: true)
            return false
        }
    }

    /// Shows the clusters with bits of bitmaps to `body`.
    private func eachBitmapCluster(_ body: (Int) -> Void) throws(BlockError) {
        guard tables.vouchesForBitmaps, let data = tables.header.extensionData(Qcow2.ExtensionType.bitmaps)
        else { return }
        for entry in try tables.bitmapDirectory(data)
        where entry.tableDefect(layout, fileClusters: fileClusters) == nil {
            for raw in try BigEndianTable.read(tables.file, at: entry.tableOffset, count: entry.tableEntries)
            where raw != 0 {
                body(Qcow2BitmapTableEntry(raw: raw).hostOffset >> layout.clusterBits)
            }
        }
    }

    /// Whether the "L2 table" in `buffer` is somebody else's cluster, as it seems.
    func isNoTable(_ offset: Int, _ buffer: AlignedBuffer) -> Bool {
        guard doubtful?.mayContain(offset >> layout.clusterBits) == true else { return false }
        return (0..<layout.entriesPerL2Table).contains { index in
            let entry = layout.entry(index, of: buffer.bytes)
            return entry.bitmapProblem(layout) != nil || mended(entry, guest: entry.hostOffset) != nil
        }
    }

    // MARK: Mending

    /// Mends an L1 table at `offset` and the L2 tables below it, each in its place.
    private mutating func mendTree(
        _ owner: Qcow2Snapshot?, _ l1: inout [UInt64], at offset: Int, _ areas: ClusterRanges,
        _ visited: inout VisitedTables, _ report: (String) -> Void
    ) throws(BlockError) -> Bool {
        let first = offset >> layout.clusterBits
        let clusters = first..<first + layout.clusters(l1.count * 8)
        let isOwn = !clusters.contains { doubtful?.mayContain($0) == true }
        var isChanged = false
        for index in l1.indices where isOwn && l1[index] != 0 {
            guard let sound = try mendedL1(l1[index], index, owner, report) else { continue }
            l1[index] = sound
            isChanged = true
            try BigEndianTable.write(l1, index..<index + 1, to: tables.file, at: offset)
        }
        try eachTable(of: l1, outside: areas, visited: &visited) { checker, buffer, guest in
            let isMended = checker.mendTable(buffer, guest: guest, owner, report)
            isChanged = isChanged || isMended
            return isMended
        }
        return isChanged
    }

    /// What an L1 entry that cannot stay becomes.
    private mutating func mendedL1(
        _ entry: UInt64, _ index: Int, _ owner: Qcow2Snapshot?, _ report: (String) -> Void
    ) throws(BlockError) -> UInt64? {
        let sound = entry & (L2Entry.offsetMask | L2Entry.copiedFlag)
        let guest = index &* layout.guestBytesPerL2Table
        if sound & L2Entry.offsetMask == 0 {
            hasLosses = true
            return 0
        }
        guard let table = placedTable(sound), try !isOthersTable(table, guest: guest) else {
            tellLoss(guest, layout.guestBytesPerL2Table, "has no table any more", owner, report)
            return 0
        }
        return sound == entry ? nil : sound
    }

    /// In a data file each cluster has one place; a table with clusters of other places only is another's.
    private func isOthersTable(_ table: Int, guest: Int) throws(BlockError) -> Bool {
        guard tables.data.isExternal else { return false }
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var bytes = buffer.mutableBytes
        try tables.file.read(into: &bytes, at: table)
        var isUsed = false
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            let kind = entry.kind(layout)
            guard kind == .data || kind == .zeroAllocated else { continue }
            if entry.hostOffset == guest &+ index &* layout.clusterSize { return false }
            isUsed = true
        }
        return isUsed
    }

    private mutating func mendTable(
        _ buffer: AlignedBuffer, guest: Int, _ owner: Qcow2Snapshot?, _ report: (String) -> Void
    ) -> Bool {
        var isChanged = false
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            let offset = guest &+ index &* layout.clusterSize
            guard let mended = mended(entry, guest: offset) else { continue }
            if mended.isLoss {
                tellLoss(offset, layout.clusterSize, "has no place any more", owner, report)
            }
            var bytes = buffer.mutableBytes
            layout.store(mended.entry, index, in: &bytes)
            isChanged = true
        }
        return isChanged
    }

    private mutating func tellLoss(
        _ guest: Int, _ bytes: Int, _ what: String, _ owner: Qcow2Snapshot?, _ report: (String) -> Void
    ) {
        hasLosses = true
        let place = owner.map { " of snapshot '\($0.info.name)'" } ?? ""
        tell("Lost: what \(bytes) bytes at guest offset 0x\(hex(guest))\(place) held \(what)", report)
    }
}

// MARK: Entries

extension Qcow2Checker {
    /// What becomes of an L2 entry that cannot stay as it is; `nil` for one that can.
    ///
    /// - Parameter guest: the guest offset that the entry maps.
    func mended(_ entry: L2Entry, guest: Int) -> (entry: L2Entry, isLoss: Bool)? {
        if entry == .unallocated { return nil }
        if entry.isCompressed { return mendedCompressed(entry, guest: guest) }
        let sound = L2Entry(raw: entry.raw & knownBits, bitmap: entry.bitmap)
        let kind = sound.kind(layout)
        let host = sound.hostOffset
        guard kind == .data || kind == .zeroAllocated else {
            return sound == entry ? nil : (sound, false)
        }
        if tables.data.isExternal {
            if host != guest { return placedInDataFile(sound, guest: guest) }
        } else if !layout.isAligned(host) {
            return withoutPlace(sound, kind)
        } else if host >> layout.clusterBits >= fileClusters {
            // It reads as zeroes; in version 2, nothing but a cluster can say that over a backing file.
            if layout.version < 3, tables.header.backing != nil { return nil }
            return withoutPlace(sound, kind)
        }
        return sound == entry ? nil : (sound, false)
    }

    /// The bits of an entry of a plain cluster that mean something.
    var knownBits: UInt64 {
        let hasZeroFlag = layout.version >= 3 && !layout.hasSubclusters
        return L2Entry.offsetMask | L2Entry.copiedFlag | (hasZeroFlag ? L2Entry.zeroFlag : 0)
    }

    private func mendedCompressed(_ entry: L2Entry, guest: Int) -> (entry: L2Entry, isLoss: Bool)? {
        if tables.data.isExternal { return placedInDataFile(entry, guest: guest) }
        let range = entry.compressedRange(layout)
        let end = fileClusters << layout.clusterBits
        guard range.lowerBound < end else { return withoutPlace(entry, .compressed) }
        var raw = entry.raw & ~L2Entry.copiedFlag
        // Behind the end there is nothing to read: the size was counted in too many sectors.
        if range.upperBound > end,
            let cut = L2Entry.compressed(at: range.lowerBound, size: end - range.lowerBound, layout)
        {
            raw = cut.raw
        }
        return raw == entry.raw ? nil : (L2Entry(raw: raw, bitmap: entry.bitmap), false)
    }

    /// In a data file, what is the guest's own can only be in one place.
    private func placedInDataFile(_ entry: L2Entry, guest: Int) -> (entry: L2Entry, isLoss: Bool) {
        let isInside = guest >= 0 && guest < tables.header.virtualSize
        let fits = UInt64(truncatingIfNeeded: guest) & ~L2Entry.offsetMask == 0
        let isCertain = tables.header.keepsDataFileRaw || (!entry.isCompressed && entry.isCopied)
        guard isInside else { return (.unallocated, false) }
        guard fits, isCertain else { return withoutPlace(entry, entry.kind(layout)) }
        let flag = entry.isCompressed ? 0 : entry.raw & knownBits & L2Entry.zeroFlag
        let bitmap = entry.isCompressed && layout.hasSubclusters ? UInt64(UInt32.max) : entry.bitmap
        return (L2Entry(raw: UInt64(guest) | L2Entry.copiedFlag | flag, bitmap: bitmap), false)
    }

    /// The entry with zeroes for what it says is in a place that it cannot be in.
    private func withoutPlace(_ entry: L2Entry, _ kind: L2Entry.Kind) -> (entry: L2Entry, isLoss: Bool) {
        if layout.hasSubclusters {
            let had = kind == .compressed ? UInt32.max : entry.allocatedSubclusters
            let mended = L2Entry(raw: 0).with(allocated: 0, zero: had | entry.zeroSubclusters)
            return (mended, had != 0)
        }
        let isLoss = kind != .zeroAllocated
        return (layout.version >= 3 ? .zeroPlain : .unallocated, isLoss)
    }
}

extension L2Entry {
    /// The clusters that the entry says are its own, wherever they may be.
    func hostClusters(_ layout: Qcow2Layout) -> Range<Int> {
        if isCompressed {
            let range = compressedRange(layout)
            let last = (range.upperBound - 1) >> layout.clusterBits
            return range.lowerBound >> layout.clusterBits..<last + 1
        }
        let cluster = hostOffset >> layout.clusterBits
        return hostOffset == 0 ? 0..<0 : cluster..<cluster + 1
    }
}
