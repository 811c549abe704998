import BlockCore

/// The snapshot table, and the tables of snapshots.
extension Qcow2Surveyor {
    /// Counts the snapshot table and all below it.
    mutating func countSnapshots() throws(BlockError) {
        let table: (snapshots: [Qcow2Snapshot], bytes: Int)
        do throws(BlockError) { table = try tables.snapshotTable(checksPlaces: false) } catch {
            if error.kind == .io { throw error }
            survey.corruption("ERROR snapshot table: \(error.message)")
            survey.findings.checkErrors += 1
            return survey.cannotFollow("the snapshot table cannot be read")
        }
        var followed: [Qcow2Snapshot] = []
        for snapshot in table.snapshots {
            checkEntry(of: snapshot)
            guard let placed = scope.placed(snapshot) else {
                let problem = tables.placeProblem(of: snapshot)?.message ?? "its L1 table is not in the file"
                badSnapshot("ERROR snapshot \(snapshot.info.id): \(problem)")
                survey.cannotFollow("snapshot \(snapshot.info.id) has no L1 table")
                continue
            }
            if placed != snapshot {
                badSnapshot("ERROR snapshot \(snapshot.info.id): its L1 table is not all in the file")
                survey.cannotFollow("the L1 table of snapshot \(snapshot.info.id) is not all in the file")
            }
            followed.append(placed)
        }
        try countTrees(of: followed)
        count("snapshot table", tables.header.snapshotsOffset, table.bytes)
    }

    /// What the entry alone tells. Too little extra data is how programs of version 2 wrote it: no damage,
    /// but a repair completes it.
    private mutating func checkEntry(of snapshot: Qcow2Snapshot) {
        if layout.version >= 3 && snapshot.lacksExtra {
            survey.incompleteSnapshots += 1
            survey.hasBadSnapshots = true
            survey.findings.note("Snapshot \(snapshot.info.id) has less extra data than version 3 wants")
        }
        if snapshot.hasTooMuchExtra {
            badSnapshot("ERROR snapshot \(snapshot.info.id) has too much extra data")
        }
        if survey.incompleteness == nil { survey.incompleteness = tables.incompleteness(of: snapshot) }
    }

    private mutating func badSnapshot(_ line: @autoclosure () -> String) {
        survey.hasBadSnapshots = true
        survey.corruption(line())
    }

    /// Counts the L1 tables of snapshots and all below them: each place and each L2 table once, with the
    /// number of its uses.
    private mutating func countTrees(of snapshots: [Qcow2Snapshot]) throws(BlockError) {
        let distinct = scope.distinctTables(snapshots)
        var uses: [Qcow2TablePlace: UInt64] = [:]
        for snapshot in snapshots { uses[snapshot.place, default: 0] += 1 }
        var shared = SharedTables()
        for snapshot in distinct.kept {
            window.times = uses[snapshot.place] ?? 1
            defer { window.times = 1 }
            if snapshot.l1Entries > 0 { count("L1 table", snapshot.l1Offset, snapshot.l1Entries * 8) }
            var visited = VisitedTables()
            for (index, entry) in try tables.readL1(of: snapshot).enumerated() where entry != 0 {
                guard let table = countedTable(entry, index) else { continue }
                if !visited.isFirstVisit(of: table) { survey.hasOverlaps = true }
                let guest = index.multipliedReportingOverflow(by: layout.guestBytesPerL2Table).partialValue
                shared.add(table, guest: guest, count: window.times)
                if shared.isFull { try countShared(&shared) }
            }
        }
        try countShared(&shared)
        guard !distinct.isComplete else { return }
        survey.corruption("ERROR the L1 tables of snapshots overlap too much to be followed")
        survey.findings.checkErrors += 1
        survey.cannotFollow("the L1 tables of snapshots overlap")
    }

    private mutating func countShared(_ shared: inout SharedTables) throws(BlockError) {
        let buffer = AlignedBuffer(count: layout.clusterSize)
        let times = window.times
        defer { window.times = times }
        for use in shared.takeAll() {
            window.times = use.count
            var bytes = buffer.mutableBytes
            try tables.file.read(into: &bytes, at: use.offset)
            countTable(buffer, guest: use.guest, isActive: false)
        }
    }
}
