import BlockCore

extension QedDriver: Checkable {
    /// - Throws: `io`, `noSpace`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (tables) throws(BlockError) in
            if repair != .none { try tables.clearFeatures() }
            return try tables.check(repair: repair, report: report)
        }
    }
}

extension QedState {
    /// - Returns: the counts of the findings that remain, and of those that were repaired.
    func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        var check = QedCheck(self, repair: repair)
        guard check.isPossible else {
            var result = CheckResult()
            result.checkErrors = 1
            report("ERROR the file is too large for its clusters to be counted")
            return result
        }
        try check.run(report)
        return check.result
    }

    /// Repairs an unclosed image before it is written to, if that copies little.
    ///
    /// - Throws: `corrupt` when the image needs an explicit repair; `io`, `noSpace`.
    func repairUnclosed() throws(BlockError) {
        var look = QedCheck(self, repair: .none)
        if look.isPossible { try look.run { _ in } }
        // Entries whose data lies behind the end of the file are dropped only by an explicit repair.
        guard look.isPossible, look.lostClusters == 0,
            look.sharedClusters <= Qed.Limit.automaticCopyBytes / header.clusterBytes,
            try check(repair: .all, report: { _ in }).corruptions == 0
        else {
            throw corrupt(
                "The image was not closed properly, and is not repaired by itself: 'check -r all' may", at: 0)
        }
    }
}

/// A check of every entry of every table. Each cluster of the file may be used once.
private struct QedCheck {
    private let tables: QedState
    private let repair: RepairMode
    private var used = UnitBitmap(0..<0)
    /// The last cluster in use; -1 for none.
    private var lastUsed: Int { used.lastUsed ?? -1 }
    private(set) var result = CheckResult()
    private(set) var sharedClusters = 0
    /// Clusters and tables behind the end of the file.
    private(set) var lostClusters = 0
    private var budget: RepairBudget
    /// Whether entries without valid data were dropped.
    private var hasLosses = false

    init(_ tables: QedState, repair: RepairMode) {
        self.tables = tables
        self.repair = repair
        budget = RepairBudget(for: tables.file, .clusters)
        let clusters = tables.end / tables.header.clusterBytes
        if clusters <= Qed.Limit.checkedClusters {
            used = UnitBitmap(0..<(clusters / 64 + 1) * 64)
        }
    }

    var isPossible: Bool { !used.units.isEmpty }
    private var header: QedHeader { tables.header }

    /// Marks clusters as used by a table, the header or data. `false` when one of them is used already.
    private mutating func use(_ offset: Int, clusters: Int) -> Bool {
        let first = offset / header.clusterBytes
        return used.insertUnused(first..<first + clusters)
    }

    private mutating func found(_ message: String, _ report: (String) -> Void) -> Bool {
        let repairs = repair == .all
        report("\(repairs ? "Repairing" : "ERROR") \(message)")
        if repairs { result.corruptionsFixed += 1 } else { result.corruptions += 1 }
        return repairs
    }

    mutating func run(_ report: (String) -> Void) throws(BlockError) {
        _ = use(0, clusters: header.headerClusters)
        _ = use(header.l1Offset, clusters: header.tableClusters)
        result.totalClusters =
            header.virtualSize / header.clusterBytes + (header.virtualSize % header.clusterBytes == 0 ? 0 : 1)
        var places: [(number: Int, offset: Int)] = []
        // All tables first: of a table and a data cluster with one place, the data cluster moves.
        for number in 0..<min(header.tableCount, header.entriesPerTable) {
            if let place = try checkTable(number, report) { places.append((number, place)) }
        }
        // Other programs also read entries behind the end of the disk, and may use them.
        try tables.eachTableBehindEnd { (number) throws(BlockError) in
            if let place = try checkTable(number, report) { places.append((number, place)) }
        }
        for (number, _) in places { try checkEntries(number, report) }
        if budget.wasExceeded { report(budget.message) }
        result.imageEndOffset = nil
        try checkLeaks(report)
        guard repair == .all, result.corruptions == 0 else { return }
        try finishRepair()
    }

    /// - Returns: the offset of the table, if it can be read.
    private mutating func checkTable(_ number: Int, _ report: (String) -> Void) throws(BlockError) -> Int? {
        var place: Int?
        do throws(BlockError) { place = try tables.l2Table(number: number) } catch {
            guard error.kind == .corrupt else { throw error }
            if error.missingBytes != nil { lostClusters += 1 }
            if found(error.message, report) {
                hasLosses = true
                try tables.setL2Table(number: number, to: 0)
            }
            return nil
        }
        guard let place else { return nil }
        if use(place, clusters: header.tableClusters) { return place }
        if found("the L2 table number \(number): its place (offset \(place)) is taken", report) {
            hasLosses = true
            try tables.setL2Table(number: number, to: 0)
        }
        return nil
    }

    private mutating func checkEntries(_ number: Int, _ report: (String) -> Void) throws(BlockError) {
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
                result.allocatedClusters += 1
                if next != 0 && entry != next { result.fragmentedClusters += 1 }
                next = entry &+ UInt64(header.clusterBytes)
                try checkEntry(entry, at: guest + index * header.clusterBytes, report)
            }
        }
    }

    private mutating func checkEntry(
        _ entry: UInt64, at guest: Int, _ report: (String) -> Void
    ) throws(BlockError) {
        guard let offset = Int(exactly: entry), tables.isDataPlace(offset) else {
            let message = "the cluster at \(guest): it is misplaced (offset \(entry))"
            if (try? tables.statedOffset(entry)) != nil { lostClusters += 1 }
            if found(message, report) {
                hasLosses = true
                try tables.setEntries(at: guest, count: 1) { _ in 0 }
            }
            return
        }
        if try tables.file.storedCount(at: offset, count: header.clusterBytes) < header.clusterBytes {
            let message = "the cluster at \(guest): the file ends within it (offset \(offset))"
            lostClusters += 1
            // Its lost bytes become zeroes.
            if found(message, report) { try tables.file.resize(to: offset + header.clusterBytes) }
        }
        if use(offset, clusters: 1) { return }
        guard guest < header.virtualSize else {
            let message = "an entry behind the end of the disk: its place (offset \(offset)) is taken"
            if found(message, report) { try tables.setEntries(at: guest, count: 1) { _ in 0 } }
            return
        }
        sharedClusters += 1
        let message = "the cluster at \(guest): its place (offset \(offset)) is taken"
        guard found(message, report), try !separate(guest, from: offset) else { return }
        result.corruptionsFixed -= 1
        result.corruptions += 1
    }

    /// Gives a cluster a place of its own with the same bytes, which are durable before its entry. A hole
    /// becomes a zero cluster.
    ///
    /// - Returns: `false` when the budget is used up.
    private mutating func separate(_ guest: Int, from offset: Int) throws(BlockError) -> Bool {
        if budget.wasExceeded { return false }
        let shared = offset..<offset + header.clusterBytes
        if try tables.file.isHole(shared) {
            try tables.setEntries(at: guest, count: 1) { _ in Qed.zeroCluster }
            return true
        }
        guard budget.allowsCopy() else { return false }
        let place = try tables.allocate(1)
        used.grow(to: place / header.clusterBytes + 1)
        _ = use(place, clusters: 1)
        budget.spend(try tables.file.copyInside(shared, to: place))
        tables.hasUnflushedWrites = true
        try tables.setEntries(at: guest, count: 1) { _ in UInt64(place) }
        return true
    }

    /// Cuts the file behind the last used cluster. A gap before it stays a leak, because the format cannot
    /// reuse it.
    private mutating func checkLeaks(_ report: (String) -> Void) throws(BlockError) {
        let lastUsed = lastUsed
        var clusters = tables.end / header.clusterBytes
        // A partial cluster at the end of the file is padding of the program that wrote it.
        if try tables.file.length() < tables.end, lastUsed + 1 < clusters { clusters -= 1 }
        result.leaks = max(0, clusters - used.usedCount)
        guard result.leaks > 0 else { return }
        let repairs = repair != .none && result.corruptions == 0 && !hasLosses
        report("\(repairs ? "Repairing" : "Leaked") \(result.leaks) clusters: nothing refers to them")
        if hasLosses { report(KeptLeaks.message) }
        guard repairs, lastUsed + 1 < clusters else { return }
        try tables.commit()
        tables.end = (lastUsed + 1) * header.clusterBytes
        try tables.file.resize(to: tables.end)
        try tables.file.flush()
        result.leaksFixed = clusters - lastUsed - 1
        result.leaks -= result.leaksFixed
    }

    private mutating func finishRepair() throws(BlockError) {
        let wasReadOnly = tables.isReadOnly
        tables.isReadOnly = false
        defer { tables.isReadOnly = wasReadOnly }
        try tables.finish()
    }
}
