import BlockCore

/// A survey of every entry of every table: the used clusters of the file, and the entries that share them.
///
/// A plain cluster must not share its file cluster; compressed ones may share one with each other.
struct QcowSurvey: EntrySurvey {
    enum Finding: EntryFinding {
        case table(number: Int, message: String)
        case cluster(guest: Int, entry: QcowEntry, message: String)
        case sharedCluster(guest: Int, entry: QcowEntry, message: String)

        var isLoss: Bool { if case .sharedCluster = self { false } else { true } }

        var message: String {
            switch self {
            case .table(_, let message), .cluster(_, _, let message), .sharedCluster(_, _, let message):
                message
            }
        }
    }

    typealias Repairing = QcowState.Repairing

    private let tables: QcowState
    private(set) var findings = Findings<Finding>(keeping: BoundedReport.mostLines)
    private var header: QcowHeader { tables.header }
    /// All used clusters of the file, and those of plain clusters, which are not shared.
    private var used: UnitBitmap
    private var alone: UnitBitmap
    private var clusterCount: Int { used.units.count }
    /// A range of the file whose tables and clusters are collected.
    private let watched: Range<Int>
    private(set) var tablesThere: [(place: Int, number: Int)] = []
    private(set) var clustersThere: [(guest: Int, entry: QcowEntry)] = []
    /// Whether the range holds something that cannot move, or too much.
    private(set) var watchedIsFixed = false
    private static let keptClusters = 1 << 20
    /// The end of the last used byte.
    private(set) var usedEnd = 0
    /// The sound tables: their numbers, ordered by place.
    private(set) var sound: [(place: Int, number: Int)] = []
    private(set) var allocated = 0
    private(set) var compressed = 0
    private(set) var fragmented = 0

    /// Surveys all tables. The caller has checked ``QcowState/isCountable``.
    ///
    /// - Throws: `io`, `limit`, and the errors of the repair.
    init(
        _ tables: QcowState, watching watched: Range<Int> = 0..<0, repair: Repairing = { (_, _) in }
    ) throws(BlockError) {
        self.tables = tables
        self.watched = watched
        used = UnitBitmap(0..<tables.clusterCount)
        alone = used
        try collectTables(repair)
        for (_, number) in sound { try lookAtEntries(number, repair) }
        markMetadata()
    }

    private mutating func add(_ finding: Finding, _ repair: Repairing) throws(BlockError) {
        findings.corruption(finding)
        try repair(&self, finding)
    }

    // MARK: Space

    /// The clusters of the file that a range touches.
    private func clusters(_ range: Range<Int>) -> Range<Int> {
        let first = min(range.lowerBound >> header.clusterBits, clusterCount)
        let last = (range.upperBound + header.clusterBytes - 1) >> header.clusterBits
        return first..<max(first, min(last, clusterCount))
    }

    /// Takes space. `false` when it is taken already.
    private mutating func use(_ range: Range<Int>, alone isAlone: Bool) -> Bool {
        let units = clusters(range)
        if tables.isMetadata(range) || (isAlone ? used : alone).containsAny(of: units) { return false }
        used.insert(units)
        if isAlone { alone.insert(units) }
        note(range)
        return true
    }

    private mutating func note(_ range: Range<Int>) { usedEnd = max(usedEnd, range.upperBound) }

    /// Marks header, name and tables, and the space that is kept free for them.
    private mutating func markMetadata() {
        let l1 = tables.l1Range
        let padding =
            l1
            .lowerBound..<(l1.lowerBound
            + (l1.count.roundedUp(to: Qcow.sectorBytes) ?? l1.count))
        for range in [0..<QcowHeader.frontBytes, padding] { mark(range) }
        for range in [0..<Qcow.headerBytes, header.nameRange, l1] where !range.isEmpty {
            mark(range)
            note(range)
            if range.overlaps(watched) { watchedIsFixed = true }
        }
        for table in sound {
            let range = table.place..<table.place + header.tableBytes
            mark(range)
            note(range)
            if range.overlaps(watched) { tablesThere.append(table) }
        }
    }

    private mutating func mark(_ range: Range<Int>) { used.insert(clusters(range)) }

    /// The number of clusters without a reference.
    var unusedCount: Int { used.unusedCount }
    var usedCount: Int { used.usedCount }

    /// ``unusedCount`` without the last, partial cluster of the file: other programs pad the file with it.
    var leakedCount: Int {
        let isUsed = used.contains(max(0, clusterCount - 1))
        let isPart = clusterCount << tables.header.clusterBits > tables.end
        return unusedCount - (isPart && !isUsed ? 1 : 0)
    }

    /// The first of `count` adjacent unused clusters from `start` on.
    func unused(_ count: Int, from start: Int) -> Int? { used.firstUnused(count, from: start) }

    // MARK: Tables

    /// Collects the tables at valid offsets that do not overlap others.
    private mutating func collectTables(_ repair: Repairing) throws(BlockError) {
        tables.l2Places = []
        var all: [(place: Int, number: Int)] = []
        var bad: [Finding] = []
        try tables.forEachTable { (number, _) throws(BlockError) in
            guard all.count < Qcow.Limit.l2Tables else {
                throw BlockError(.limit, "The image has too many L2 tables to be checked")
            }
            do throws(BlockError) {
                if let place = try tables.l2Table(number) { all.append((place, number)) }
            } catch {
                guard error.kind == .corrupt else { throw error }
                bad.append(.table(number: number, message: error.message))
            }
        }
        all.sort { ($0.place, $0.number) < ($1.place, $1.number) }
        for table in all {
            let range = table.place..<table.place + header.tableBytes
            let overlaps = sound.last.map { $0.place + header.tableBytes > table.place } ?? false
            if overlaps || tables.isMetadata(range) {
                let message =
                    "the L2 table number \(table.number): its place (offset \(table.place)) is taken"
                bad.append(.table(number: table.number, message: message))
            } else {
                sound.append(table)
            }
        }
        tables.l2Places = sound.map(\.place)
        for finding in bad { try add(finding, repair) }
    }

    private mutating func lookAtEntries(_ number: Int, _ repair: Repairing) throws(BlockError) {
        let start = number * header.guestBytesPerTable
        let rest = min(header.guestBytesPerTable, header.storedSize - start)
        guard rest > 0 else { return }
        let wanted = (rest - 1) >> header.clusterBits + 1
        guard let (slot, first, count) = try tables.entries(at: start, limit: wanted) else { return }
        let raw = (0..<count).map { tables.entry(slot, first + $0) }
        var next = 0
        for (index, value) in raw.enumerated() where value != 0 {
            let entry = QcowEntry(value, clusterBits: header.clusterBits)
            allocated += 1
            if case .data(let host) = entry {
                if next != 0 && host != next { fragmented += 1 }
                next = host &+ header.clusterBytes
            } else {
                compressed += 1
            }
            let guest = start + index << header.clusterBits
            if let finding = look(at: entry, guest) { try add(finding, repair) }
        }
    }

    private mutating func look(at entry: QcowEntry, _ guest: Int) -> Finding? {
        let place: Range<Int>
        let isSound: Bool
        switch entry {
        case .unallocated: return nil
        case .data(let host):
            isSound = tables.isDataPlace(host)
            place = host..<(isSound ? host + header.clusterBytes : host)
        case .compressed(let range):
            isSound = tables.isCompressedPlace(range)
            place = range
        }
        let name = "the cluster at \(guest)"
        guard isSound else {
            return .cluster(
                guest: guest, entry: entry, message: "\(name): it is misplaced (offset \(place.lowerBound))")
        }
        var isAlone = true
        if case .compressed = entry { isAlone = false }
        if place.overlaps(watched) {
            if clustersThere.count < Self.keptClusters {
                clustersThere.append((guest, entry))
            } else {
                watchedIsFixed = true
            }
        }
        if use(place, alone: isAlone) { return nil }
        return .sharedCluster(
            guest: guest, entry: entry, message: "\(name): its place (offset \(place.lowerBound)) is taken")
    }
}
