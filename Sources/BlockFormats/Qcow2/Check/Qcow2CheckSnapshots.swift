import BlockCore

/// L2 tables that snapshots' L1 tables refer to, with how often, so that one that many share is read once.
struct SharedTables {
    /// How many are remembered: some megabytes. More are counted in several rounds.
    private static let maximumCount = 1 << 17

    private struct Use {
        var count: UInt64
        /// The guest offset that the first use maps.
        var guest: Int
    }

    /// By offset.
    private var uses: [Int: Use] = [:]

    var isFull: Bool { uses.count >= Self.maximumCount }

    /// Notes that `count` L1 entries refer to the table at `offset`.
    mutating func add(_ offset: Int, guest: Int, count: UInt64) {
        uses[offset, default: Use(count: 0, guest: guest)].count += count
    }

    /// Takes out all, in the order of the file.
    mutating func takeAll() -> [(offset: Int, guest: Int, count: UInt64)] {
        defer { uses.removeAll() }
        return uses.map { ($0.key, $0.value.guest, $0.value.count) }.sorted { $0.0 < $1.0 }
    }
}

/// The tables that were visited, as far as memory for that goes: a few may be visited again.
struct VisitedTables {
    private static let maximumCount = 1 << 18
    private var offsets: Set<Int> = []

    /// Whether the table at `offset` was not visited before, as far as is known.
    mutating func isFirstVisit(of offset: Int) -> Bool {
        guard offsets.count < Self.maximumCount else { return !offsets.contains(offset) }
        return offsets.insert(offset).inserted
    }
}

/// Where an L1 table lies.
private struct TablePlace: Hashable {
    var offset: Int
    var entries: Int
}

extension Qcow2Checker {
    /// L1 tables that overlap are walked up to this many entries beyond what the file has room for.
    private static let overlappingEntries = 4 << 20

    /// Counts the L1 tables of snapshots and all below them: each place and each L2 table once, with the
    /// number of its uses.
    mutating func countTrees(
        of snapshots: [Qcow2Snapshot], _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) throws(BlockError) {
        let distinct = distinctTables(snapshots)
        var uses: [TablePlace: UInt64] = [:]
        for snapshot in snapshots { uses[snapshot.place, default: 0] += 1 }
        var shared = SharedTables()
        for snapshot in distinct.kept {
            window.times = uses[snapshot.place] ?? 1
            defer { window.times = 1 }
            if snapshot.l1Entries > 0 {
                count("L1 table", snapshot.l1Offset, snapshot.l1Entries * 8, &window, report)
            }
            var visited = VisitedTables()
            for (index, entry) in try tables.readL1(of: snapshot).enumerated() where entry != 0 {
                guard let table = countedTable(entry, index, &window, report) else { continue }
                if !visited.isFirstVisit(of: table) { hasOverlaps = true }
                let guest = index.multipliedReportingOverflow(by: layout.guestBytesPerL2Table).partialValue
                shared.add(table, guest: guest, count: window.times)
                if shared.isFull { try countShared(&shared, &window, report) }
            }
        }
        try countShared(&shared, &window, report)
        guard !distinct.isComplete else { return }
        corruption("ERROR the L1 tables of snapshots overlap too much to be followed", report)
        result.checkErrors += 1
        cannotFollow("the L1 tables of snapshots overlap")
    }

    private mutating func countShared(
        _ shared: inout SharedTables, _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) throws(BlockError) {
        let buffer = AlignedBuffer(count: layout.clusterSize)
        let times = window.times
        defer { window.times = times }
        for use in shared.takeAll() {
            window.times = use.count
            var bytes = buffer.mutableBytes
            try tables.file.read(into: &bytes, at: use.offset)
            countTable(buffer, guest: use.guest, isActive: false, &window, report)
        }
    }

    /// One snapshot for each place of an L1 table. Of tables that overlap only so many that walking them
    /// ends.
    func distinctTables(_ snapshots: [Qcow2Snapshot]) -> (kept: [Qcow2Snapshot], isComplete: Bool) {
        var seen: Set<TablePlace> = []
        var kept: [Qcow2Snapshot] = []
        var entries = 0
        let limit = (fileClusters << layout.clusterBits) / 8 + Self.overlappingEntries
        for snapshot in snapshots where seen.insert(snapshot.place).inserted {
            entries += snapshot.l1Entries
            guard entries <= limit else { return (kept, false) }
            kept.append(snapshot)
        }
        return (kept, true)
    }

    /// Shows each L2 table of snapshots to `body`, as ``eachTable(of:outside:visited:_:)`` does, once.
    mutating func eachSnapshotTable(
        _ snapshots: [Qcow2Snapshot], outside areas: ClusterRanges,
        _ body: (inout Qcow2Checker, AlignedBuffer, _ guest: Int) throws(BlockError) -> Bool
    ) throws(BlockError) {
        var visited = VisitedTables()
        for snapshot in distinctTables(snapshots).kept {
            try eachTable(of: try tables.readL1(of: snapshot), outside: areas, visited: &visited, body)
        }
    }
}

extension Qcow2Snapshot {
    fileprivate var place: TablePlace { TablePlace(offset: l1Offset, entries: l1Entries) }
}
