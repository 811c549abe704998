import BlockCore

/// What is wrong inside tables that lie where they should: flags and subcluster bitmaps.
extension Qcow2Repair {
    /// Tells of every active entry whose "copied" flag contradicts the refcount, and of impossible subcluster
    /// bitmaps also in snapshots, and sets them right in their places.
    ///
    /// An entry lies in one sector: after a crash each is old or new, and the next repair continues.
    mutating func checkFlags(
        repair: Bool, _ survey: inout Qcow2Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        let allocator = try tables.refcounts()
        for index in tables.l1.indices { try checkTableFlag(index, allocator, repair, report) }
        var visited = VisitedTables()
        let known = ClusterRanges(tables.knownAreas())
        try eachTable(of: tables.l1, outside: known, visited: &visited) {
            check, buffer, _ throws(BlockError) in
            let areBitmapsRepaired = check.checkBitmaps(in: buffer, repair, report)
            let areFlagsRepaired = try check.checkFlags(in: buffer, allocator, repair, report)
            return areBitmapsRepaired || areFlagsRepaired
        }
        // While something lies where it should not, what looks like a table may be anything.
        let isSound = survey.irreparable == 0
        if layout.hasSubclusters { try checkSnapshotBitmaps(repair && isSound, report) }
        survey.findings.corruptions += wrongFlags
        survey.corruptionsFixed += repairedFlags
        if repair {
            try tables.commit()
            try tables.barrier()
        }
    }

    /// "Copied" flags say nothing in a snapshot, but bitmaps are read when it is applied or converted.
    private mutating func checkSnapshotBitmaps(
        _ repair: Bool, _ report: (String) -> Void
    ) throws(BlockError) {
        // A damaged table of snapshots was told of, and is no reason to leave the rest.
        guard let snapshots = try? tables.snapshotTable().snapshots,
            let areas = try? ClusterRanges(tables.allAreas())
        else { return }
        try eachSnapshotTable(snapshots, outside: areas) { check, buffer, _ in
            check.checkBitmaps(in: buffer, repair, report)
        }
    }

    /// Shows each L2 table that lies where one may to `body`, with the guest offset that it begins at, and
    /// writes it back where that changed it.
    ///
    /// - Parameters:
    ///   - areas: clusters of other tables: what lies there is no L2 table, whatever `l1` says.
    ///   - visited: tables that were shown already, and are not again.
    mutating func eachTable(
        of l1: [UInt64], outside areas: ClusterRanges, visited: inout VisitedTables,
        _ body: (inout Qcow2Repair, AlignedBuffer, _ guest: Int) throws(BlockError) -> Bool
    ) throws(BlockError) {
        let buffer = AlignedBuffer(count: layout.clusterSize)
        for (index, entry) in l1.enumerated() {
            guard let table = scope.placedTable(entry),
                !areas.contains(layout.cluster(at: HostOffset(table))),
                visited.isFirstVisit(of: table)
            else { continue }
            var bytes = buffer.mutableBytes
            try tables.file.read(into: &bytes, at: table)
            if isNoTable(table, buffer) { continue }
            if try body(&self, buffer, index &* layout.guestBytesPerL2Table) {
                try tables.file.write(buffer.bytes, at: table)
                tables.l2Cache.discard(table..<table + layout.clusterSize)
            }
        }
    }

    /// Shows each L2 table of snapshots to `body`, as ``eachTable(of:outside:visited:_:)`` does, once.
    mutating func eachSnapshotTable(
        _ snapshots: [Qcow2Snapshot], outside areas: ClusterRanges,
        _ body: (inout Qcow2Repair, AlignedBuffer, _ guest: Int) throws(BlockError) -> Bool
    ) throws(BlockError) {
        var visited = VisitedTables()
        for snapshot in scope.distinctTables(snapshots).kept {
            try eachTable(of: try tables.readL1(of: snapshot), outside: areas, visited: &visited, body)
        }
    }

    private mutating func checkTableFlag(
        _ index: Int, _ allocator: Qcow2Allocator, _ repair: Bool, _ report: (String) -> Void
    ) throws(BlockError) {
        let entry = tables.l1[index]
        guard let table = scope.placedTable(entry) else { return }
        let refcount = try allocator.refcount(of: layout.cluster(at: HostOffset(table)))
        guard (refcount == 1) != (entry & L2Entry.copiedFlag != 0) else { return }
        note(
            "ERROR OFLAG_COPIED L2 cluster: l1_index=\(index) l1_entry=\(hex(entry)) refcount=\(refcount)",
            repair, report)
        if repair { tables.setL1(index, to: entry ^ L2Entry.copiedFlag) }
    }

    private mutating func note(
        _ line: @autoclosure () -> String, _ repair: Bool, _ report: (String) -> Void
    ) {
        if repair {
            repairedFlags += 1
            lines.report(line().replacingPrefix("ERROR", with: "Repairing"), to: report)
        } else {
            wrongFlags += 1
            lines.report(line(), to: report)
        }
    }

    /// - Returns: whether entries in `buffer` were changed.
    private mutating func checkBitmaps(
        in buffer: AlignedBuffer, _ repair: Bool, _ report: (String) -> Void
    ) -> Bool {
        guard layout.hasSubclusters else { return false }
        var changed = false
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            guard let finding = entry.bitmapFinding(index, layout) else { continue }
            note(finding, repair, report)
            guard repair else { continue }
            var bytes = buffer.mutableBytes
            layout.store(entry.withSoundBitmap(layout), index, in: &bytes)
            changed = true
        }
        return changed
    }

    /// - Returns: whether entries in `buffer` were changed.
    private mutating func checkFlags(
        in buffer: AlignedBuffer, _ allocator: Qcow2Allocator, _ repair: Bool, _ report: (String) -> Void
    ) throws(BlockError) -> Bool {
        var changed = false
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            let host = entry.hostOffset
            guard entry.raw != 0, !entry.isCompressed, host != .zero, layout.isAligned(host),
                tables.data.isExternal || layout.clusters(host.bytes) < scope.fileClusters
            else { continue }
            let refcount = tables.data.isExternal ? 1 : try allocator.refcount(of: layout.cluster(at: host))
            guard (refcount == 1) != entry.isCopied else { continue }
            note(
                "ERROR OFLAG_COPIED data cluster: l2_entry=\(hex(entry.raw)) refcount=\(refcount)", repair,
                report)
            guard repair else { continue }
            var bytes = buffer.mutableBytes
            layout.store(
                L2Entry(raw: entry.raw ^ L2Entry.copiedFlag, bitmap: entry.bitmap), index, in: &bytes)
            changed = true
        }
        return changed
    }
}

extension String {
    /// The text with another prefix.
    fileprivate func replacingPrefix(_ prefix: String, with other: String) -> String {
        hasPrefix(prefix) ? other + dropFirst(prefix.count) : self
    }
}
