import BlockCore

/// What no count of references can set right: entries of L1 and L2 tables that point nowhere, and bits that
/// mean nothing. What is lost by it is told, by guest offset.
///
/// An entry lies in one sector: after a crash each is old or new, and the next repair continues.
extension Qcow2Repair {
    /// Gives up entries that point nowhere, and surveys what is left.
    mutating func repairTables(
        _ survey: inout Qcow2Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        let isChanged = try repairTrees(report)
        survey.hasLosses = survey.hasLosses || hasLosses
        if isChanged { try surveyAgain(&survey) }
    }

    /// - Returns: whether anything was changed.
    private mutating func repairTrees(_ report: (String) -> Void) throws(BlockError) -> Bool {
        // While it is not known what lies where, what looks like a table may be anything.
        guard let all = try? scope.soundSnapshots(), let areas = try? areas(with: all) else { return false }
        let snapshots = scope.distinctTables(all).kept
        suspects = try findSuspects(snapshots, areas)
        var active = tables.l1
        var visited = VisitedTables()
        var isChanged = try repairTree(
            nil, &active, at: tables.header.l1Offset, areas, &visited, report)
        tables.l1 = active
        for snapshot in snapshots {
            var l1 = try tables.readL1(of: snapshot)
            let isRepaired = try repairTree(snapshot, &l1, at: snapshot.l1Offset, areas, &visited, report)
            isChanged = isChanged || isRepaired
        }
        if isChanged {
            tables.protection = nil
            try tables.barrier()
        }
        return isChanged
    }

    private func areas(with snapshots: [Qcow2Snapshot]) throws(BlockError) -> ClusterRanges {
        let table = try tables.snapshotTable(checksPlaces: false).bytes
        let places =
            [(tables.header.snapshotsOffset, table)] + snapshots.map { ($0.l1Offset, $0.l1Entries * 8) }
        let own = places.filter { $0.1 > 0 }.map { offset, bytes in
            layout.clusters(at: HostOffset(offset), bytes: bytes)
        }
        return ClusterRanges(tables.knownAreas() + own + ((try? tables.bitmapAreas()) ?? []))
    }

    // MARK: One tree

    /// Repairs an L1 table at `offset` and the L2 tables below it, each in its place.
    private mutating func repairTree(
        _ owner: Qcow2Snapshot?, _ l1: inout [UInt64], at offset: Int, _ areas: ClusterRanges,
        _ visited: inout VisitedTables, _ report: (String) -> Void
    ) throws(BlockError) -> Bool {
        let clusters = layout.clusters(at: HostOffset(offset), bytes: l1.count * 8)
        let isOwn = !clusters.contains { suspects?.mayContain($0) == true }
        var isChanged = false
        for index in l1.indices where isOwn && l1[index] != 0 {
            guard let sound = try repairedL1(l1[index], index, owner, report) else { continue }
            l1[index] = sound
            isChanged = true
            try BigEndianTable.write(l1, index..<index + 1, to: tables.file, at: offset)
        }
        try eachTable(of: l1, outside: areas, visited: &visited) { repair, buffer, guest in
            let isRepaired = repair.repairTable(buffer, guest: guest, owner, report)
            isChanged = isChanged || isRepaired
            return isRepaired
        }
        return isChanged
    }

    /// What an L1 entry that cannot stay becomes.
    private mutating func repairedL1(
        _ entry: UInt64, _ index: Int, _ owner: Qcow2Snapshot?, _ report: (String) -> Void
    ) throws(BlockError) -> UInt64? {
        let sound = entry & (L2Entry.offsetMask | L2Entry.copiedFlag)
        let guest = index &* layout.guestBytesPerL2Table
        if sound & L2Entry.offsetMask == 0 {
            hasLosses = true
            return 0
        }
        guard let table = scope.placedTable(sound), try !isOthersTable(table, guest: guest) else {
            reportLoss(guest, layout.guestBytesPerL2Table, "has no table any more", owner, report)
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
            if entry.hostOffset.bytes == guest &+ index &* layout.clusterSize { return false }
            isUsed = true
        }
        return isUsed
    }

    private mutating func repairTable(
        _ buffer: AlignedBuffer, guest: Int, _ owner: Qcow2Snapshot?, _ report: (String) -> Void
    ) -> Bool {
        var isChanged = false
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            let offset = guest &+ index &* layout.clusterSize
            guard let repaired = scope.repaired(entry, guest: offset) else { continue }
            if repaired.isLoss {
                reportLoss(offset, layout.clusterSize, "has no place any more", owner, report)
            }
            var bytes = buffer.mutableBytes
            layout.store(repaired.entry, index, in: &bytes)
            isChanged = true
        }
        return isChanged
    }

    private mutating func reportLoss(
        _ guest: Int, _ bytes: Int, _ what: String, _ owner: Qcow2Snapshot?, _ report: (String) -> Void
    ) {
        hasLosses = true
        let place = owner.map { " of snapshot '\($0.info.name)'" } ?? ""
        lines.report(
            "Lost: what \(bytes) bytes at guest offset 0x\(hex(guest))\(place) held \(what)", to: report)
    }
}
