import BlockCore

extension QedDriver: Checkable {
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try exclusively { (tables) throws(BlockError) in try tables.check(repair: repair, report: report) }
    }
}

extension QedTables {
    /// - Returns: what was found and not mended, and what was.
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
}

/// A look at every entry of every table. Each cluster of the file may be used once.
private struct QedCheck {
    private let tables: QedTables
    private let repair: RepairMode
    private var used: [UInt64] = []
    private var lastUsed = -1
    private(set) var result = CheckResult()

    init(_ tables: QedTables, repair: RepairMode) {
        self.tables = tables
        self.repair = repair
        let clusters = tables.end / tables.header.clusterBytes
        if clusters <= Qed.Limit.checkedClusters {
            used = [UInt64](repeating: 0, count: clusters / 64 + 1)
        }
    }

    var isPossible: Bool { !used.isEmpty }
    private var header: QedHeader { tables.header }

    /// Takes clusters for a table, the header or data. `false` when one of them is taken already.
    private mutating func use(_ offset: Int, clusters: Int) -> Bool {
        let first = offset / header.clusterBytes
        let range = first..<first + clusters
        guard range.upperBound <= used.count * 64 else { return false }
        if range.contains(where: { used[$0 / 64] & 1 << UInt64($0 % 64) != 0 }) { return false }
        for cluster in range { used[cluster / 64] |= 1 << UInt64(cluster % 64) }
        lastUsed = max(lastUsed, range.upperBound - 1)
        return true
    }

    private mutating func found(_ message: String, _ report: (String) -> Void) -> Bool {
        let mends = repair == .all
        report("\(mends ? "Repairing" : "ERROR") \(message)")
        if mends { result.corruptionsFixed += 1 } else { result.corruptions += 1 }
        return mends
    }

    mutating func run(_ report: (String) -> Void) throws(BlockError) {
        _ = use(0, clusters: header.headerClusters)
        _ = use(header.l1Offset, clusters: header.tableClusters)
        result.totalClusters =
            header.virtualSize / header.clusterBytes + (header.virtualSize % header.clusterBytes == 0 ? 0 : 1)
        let count = header.virtualSize / header.guestBytesPerTable
        let tableCount = count + (header.virtualSize % header.guestBytesPerTable == 0 ? 0 : 1)
        var places: [(number: Int, offset: Int)] = []
        // All tables first, so that data that lies over one is what gives way.
        for number in 0..<min(tableCount, header.entriesPerTable) {
            if let place = try checkTable(number, report) { places.append((number, place)) }
        }
        for (number, _) in places { try checkEntries(number, report) }
        result.imageEndOffset = nil
        try checkLeaks(report)
        guard repair == .all, result.corruptions == 0 else { return }
        try finishRepair()
    }

    /// - Returns: where the table is, when it can be read.
    private mutating func checkTable(_ number: Int, _ report: (String) -> Void) throws(BlockError) -> Int? {
        var place: Int?
        do throws(BlockError) { place = try tables.l2Table(number: number) } catch {
            guard error.kind == .corrupt else { throw error }
            if found(error.message, report) { try tables.setL2Table(number: number, to: 0) }
            return nil
        }
        guard let place else { return nil }
        if use(place, clusters: header.tableClusters) { return place }
        if found("the L2 table number \(number): its place (offset \(place)) is taken", report) {
            try tables.setL2Table(number: number, to: 0)
        }
        return nil
    }

    private mutating func checkEntries(_ number: Int, _ report: (String) -> Void) throws(BlockError) {
        let start = number * header.guestBytesPerTable
        let stop = min(start + header.guestBytesPerTable, header.virtualSize)
        var guest = start
        var next: UInt64 = 0
        while guest < stop {
            let wanted = (stop - guest - 1) / header.clusterBytes + 1
            guard let (slot, first, count) = try tables.entries(at: guest, limit: wanted) else { return }
            let entries = (0..<count).map { tables.entry(slot, first + $0) }
            for (index, entry) in entries.enumerated() where entry > Qed.zeroCluster {
                result.allocatedClusters += 1
                if next != 0 && entry != next { result.fragmentedClusters += 1 }
                next = entry &+ UInt64(header.clusterBytes)
                try checkEntry(entry, at: guest + index * header.clusterBytes, report)
            }
            guest += count * header.clusterBytes
        }
    }

    private mutating func checkEntry(
        _ entry: UInt64, at guest: Int, _ report: (String) -> Void
    ) throws(BlockError) {
        guard let offset = Int(exactly: entry), tables.isDataPlace(offset) else {
            let message = "the cluster at \(guest): it is misplaced (offset \(entry))"
            if found(message, report) { try tables.setEntries(at: guest, count: 1) { _ in 0 } }
            return
        }
        if use(offset, clusters: 1) { return }
        let message = "the cluster at \(guest): its place (offset \(offset)) is taken"
        if found(message, report) { try copyCluster(at: guest, from: offset) }
    }

    /// Gives a cluster a place of its own, with the bytes that it shared.
    private mutating func copyCluster(at guest: Int, from offset: Int) throws(BlockError) {
        let place = try tables.allocate(1)
        let needed = place / header.clusterBytes / 64 + 1
        if needed > used.count { used += [UInt64](repeating: 0, count: needed - used.count) }
        _ = use(place, clusters: 1)
        let buffer = AlignedBuffer(count: min(header.clusterBytes, 1 << 20))
        var done = 0
        while done < header.clusterBytes {
            let count = min(buffer.count, header.clusterBytes - done)
            var span = buffer.mutableBytes(0..<count)
            try tables.file.read(into: &span, at: offset + done)
            try tables.file.write(buffer.bytes(0..<count), at: place + done)
            done += count
        }
        try tables.commit()
        try tables.setEntries(at: guest, count: 1) { _ in UInt64(place) }
    }

    /// What lies behind the last used cluster is cut off; a gap stays a leak, as nothing can be put there.
    private mutating func checkLeaks(_ report: (String) -> Void) throws(BlockError) {
        let clusters = tables.end / header.clusterBytes
        let count = used.reduce(0) { $0 + $1.nonzeroBitCount }
        result.leaks = max(0, clusters - count)
        guard result.leaks > 0 else { return }
        report("\(repair == .none ? "Leaked" : "Repairing") \(result.leaks) clusters: nothing refers to them")
        guard repair != .none, result.corruptions == 0, lastUsed + 1 < clusters else { return }
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
