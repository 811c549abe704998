import BlockCore

/// A survey of every entry of every table. Each cluster of the file may be used once.
struct QedSurvey: EntrySurvey {
    enum Finding: EntryFinding {
        /// A table outside the file, or at a place that is in use.
        case table(number: Int, message: String)
        /// An entry without a valid place.
        case misplaced(guest: Int, entry: UInt64)
        /// The file ends within the cluster.
        case cut(guest: Int, offset: Int)
        /// An entry behind the end of the disk, for a cluster that is in use.
        case behindEnd(guest: Int, offset: Int)
        /// An entry for a cluster that is in use.
        case shared(guest: Int, offset: Int)

        var isLoss: Bool {
            switch self {
            case .table, .misplaced: true
            case .cut, .behindEnd, .shared: false
            }
        }

        var message: String {
            switch self {
            case .table(_, let message): message
            case .misplaced(let guest, let entry):
                "the cluster at \(guest): it is misplaced (offset \(entry))"
            case .cut(let guest, let offset):
                "the cluster at \(guest): the file ends within it (offset \(offset))"
            case .behindEnd(_, let offset):
                "an entry behind the end of the disk: its place (offset \(offset)) is taken"
            case .shared(let guest, let offset):
                "the cluster at \(guest): its place (offset \(offset)) is taken"
            }
        }
    }

    typealias Repairing = QedState.Repairing

    private let tables: QedState
    private var header: QedHeader { tables.header }
    private(set) var findings = Findings<Finding>(keeping: BoundedReport.mostLines)
    /// The used clusters of the file.
    private(set) var used: UnitBitmap
    private(set) var allocated = 0
    private(set) var fragmented = 0
    private(set) var sharedClusters = 0
    /// Clusters and tables behind the end of the file.
    private(set) var lostClusters = 0

    /// Surveys all tables. The caller has checked ``QedState/isCountable``.
    ///
    /// - Throws: `io`, and the errors of the repair.
    init(_ tables: QedState, repair: Repairing = { (_, _) in }) throws(BlockError) {
        self.tables = tables
        used = UnitBitmap(0..<(tables.end / tables.header.clusterBytes / 64 + 1) * 64)
        use(0, clusters: header.headerClusters)
        use(header.l1Offset, clusters: header.tableClusters)
        var numbers: [Int] = []
        // All tables first: of a table and a data cluster with one place, the data cluster moves.
        for number in 0..<min(header.tableCount, header.entriesPerTable) {
            if try lookAtTable(number, repair) { numbers.append(number) }
        }
        // Other programs also read entries behind the end of the disk, and may use them.
        try tables.eachTableBehindEnd { (number) throws(BlockError) in
            if try lookAtTable(number, repair) { numbers.append(number) }
        }
        for number in numbers { try lookAtEntries(number, repair) }
    }

    private mutating func add(_ finding: Finding, _ repair: Repairing) throws(BlockError) {
        findings.corruption(finding)
        try repair(&self, finding)
    }

    /// Marks clusters as used by a table, the header or data. `false` when one of them is used already.
    @discardableResult
    private mutating func use(_ offset: Int, clusters: Int) -> Bool {
        let first = offset / header.clusterBytes
        return used.insertUnused(first..<first + clusters)
    }

    /// Marks a new cluster behind the others as used.
    mutating func append(_ offset: Int) {
        used.grow(to: offset / header.clusterBytes + 1)
        use(offset, clusters: 1)
    }

    /// - Returns: whether there is a table that can be read.
    private mutating func lookAtTable(_ number: Int, _ repair: Repairing) throws(BlockError) -> Bool {
        let place: Int?
        do throws(BlockError) { place = try tables.l2Table(number: number) } catch {
            guard error.kind == .corrupt else { throw error }
            if error.missingBytes != nil { lostClusters += 1 }
            try add(.table(number: number, message: error.message), repair)
            return false
        }
        guard let place else { return false }
        if use(place, clusters: header.tableClusters) { return true }
        let message = "the L2 table number \(number): its place (offset \(place)) is taken"
        try add(.table(number: number, message: message), repair)
        return false
    }

    private mutating func lookAtEntries(_ number: Int, _ repair: Repairing) throws(BlockError) {
        let start = number * header.guestBytesPerTable
        let stop = start + header.guestBytesPerTable
        var guest = start
        var next: UInt64 = 0
        while guest < stop {
            let wanted = (stop - guest - 1) / header.clusterBytes + 1
            guard let (slot, first, count) = try tables.entries(at: guest, limit: wanted) else { return }
            defer { guest += count * header.clusterBytes }
            if tables.areUnallocated(slot, first..<first + count) { continue }
            let entries = (0..<count).map { tables.entry(slot, first + $0) }
            for (index, entry) in entries.enumerated() where entry > Qed.zeroCluster {
                allocated += 1
                if next != 0 && entry != next { fragmented += 1 }
                next = entry &+ UInt64(header.clusterBytes)
                try look(at: entry, guest + index * header.clusterBytes, repair)
            }
        }
    }

    private mutating func look(
        at entry: UInt64, _ guest: Int, _ repair: Repairing
    ) throws(BlockError) {
        guard let offset = Int(exactly: entry), tables.isDataPlace(offset) else {
            if (try? tables.statedOffset(entry)) != nil { lostClusters += 1 }
            return try add(.misplaced(guest: guest, entry: entry), repair)
        }
        if try tables.file.storedCount(at: offset, count: header.clusterBytes) < header.clusterBytes {
            lostClusters += 1
            try add(.cut(guest: guest, offset: offset), repair)
        }
        if use(offset, clusters: 1) { return }
        guard guest < header.virtualSize else {
            return try add(.behindEnd(guest: guest, offset: offset), repair)
        }
        sharedClusters += 1
        try add(.shared(guest: guest, offset: offset), repair)
    }
}
