import BlockCore

/// A number as it stands in messages.
func hex(_ value: some BinaryInteger) -> String { String(value, radix: 16) }
func hex(_ offset: HostOffset) -> String { hex(offset.bytes) }

/// The image that is checked, as long as its file has the same length: what lies inside, and what an entry
/// may refer to.
///
/// Tables are read from the file: the caller has written back what was cached. Used under the driver's lock.
struct Qcow2CheckScope {
    let tables: Qcow2State
    /// How many clusters the file has; the last may be a part of one.
    let fileClusters: Int
    /// One past the last cluster whose refcount is compared: an active L1 table that was never written may
    /// lie behind the end of the file.
    let countedClusters: Int

    /// L1 tables that overlap are walked up to this many entries beyond what the file has room for.
    private static let overlappingEntries = 4 << 20

    /// - Throws: `io` when the length of the file cannot be learned.
    init(_ tables: Qcow2State) throws(BlockError) {
        self.tables = tables
        fileClusters = tables.layout.clusters(try tables.file.length())
        countedClusters = max(fileClusters, tables.endOfUnwrittenL1(fileClusters))
    }

    var layout: Qcow2Layout { tables.layout }

    /// The words for a reference to what the file does not have.
    static func behindEnd(_ what: String, _ offset: Int, _ bytes: Int) -> String {
        "ERROR \(what) reaches beyond the end of the file: offset 0x\(hex(offset)) size 0x\(hex(bytes))"
    }

    // MARK: Places

    /// The clusters of a piece of metadata; `nil` where it does not lie in the file.
    func clusters(of offset: Int, _ bytes: Int) -> Range<Int>? {
        let (end, overflow) = offset.addingReportingOverflow(bytes)
        let limit = offset == tables.header.l1Offset ? countedClusters : fileClusters
        guard offset >= 0, !overflow, layout.clusters(end) <= limit else { return nil }
        return offset >> layout.clusterBits..<layout.clusters(end)
    }

    /// The offset of the table that an L1 entry refers to, where it lies in the file.
    func placedTable(_ entry: UInt64) -> Int? {
        let table = Int(entry & L2Entry.offsetMask)
        guard table != 0, layout.isAligned(table), layout.clusters(table) < fileClusters else { return nil }
        return table
    }

    /// The bits of an entry of a plain cluster that mean something.
    var knownBits: UInt64 {
        let hasZeroFlag = layout.version >= 3 && !layout.hasSubclusters
        return L2Entry.offsetMask | L2Entry.copiedFlag | (hasZeroFlag ? L2Entry.zeroFlag : 0)
    }

    // MARK: Snapshots

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

    /// The snapshots whose L1 tables lie where they can be read.
    ///
    /// - Throws: `corrupt` where the snapshot table cannot be read.
    func soundSnapshots() throws(BlockError) -> [Qcow2Snapshot] {
        try tables.snapshotTable(checksPlaces: false).snapshots.compactMap { placed($0) }
    }

    /// One snapshot for each place of an L1 table. Of tables that overlap only so many that walking them
    /// ends.
    func distinctTables(_ snapshots: [Qcow2Snapshot]) -> (kept: [Qcow2Snapshot], isComplete: Bool) {
        var seen: Set<Qcow2TablePlace> = []
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
}

/// Where an L1 table lies: its offset in bytes, and how many entries it has.
struct Qcow2TablePlace: Hashable {
    var offset: Int
    var entries: Int
}

extension Qcow2Snapshot {
    /// Where its L1 table lies.
    var place: Qcow2TablePlace { Qcow2TablePlace(offset: l1Offset, entries: l1Entries) }
}
