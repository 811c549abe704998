import BlockCore

extension QcowDriver: Checkable {
    /// - Throws: `io`, `noSpace`, `limit`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (tables) throws(BlockError) in
            try tables.checkEntries(repair, report)
        }
    }
}

extension QcowState: EntrySurveying {
    typealias Entries = QcowSurvey

    /// The number of clusters of the file.
    var clusterCount: Int { (end + header.clusterBytes - 1) >> header.clusterBits }
    var isCountable: Bool { clusterCount <= Qcow.Limit.checkedUnits }

    func surveyEntries(_ repair: Repairing) throws(BlockError) -> QcowSurvey {
        try QcowSurvey(self, repair: repair)
    }

    func counts(of entries: QcowSurvey) -> CheckResult {
        var result = CheckResult()
        result.totalClusters = (header.storedSize - 1) >> header.clusterBits + 1
        result.allocatedClusters = entries.allocated
        result.compressedClusters = entries.compressed
        result.fragmentedClusters = entries.fragmented
        result.imageEndOffset = entries.usedEnd
        return result
    }

    func checkLeaks(
        _ survey: inout EntryCheck<QcowSurvey>, _ mode: RepairMode, _ report: (String) -> Void
    ) throws(BlockError) {
        let leaks = survey.entries.leakedCount
        let isSound = survey.result.corruptions == 0
        let repairs = mode != .none && isSound && !survey.hasLosses
        survey.result.leaks = leaks
        if !isSound { survey.result.imageEndOffset = nil }
        guard leaks > 0 else { return }
        if survey.hasLosses { report(KeptLeaks.message) }
        report("\(repairs ? "Repairing" : "Leaked") \(leaks) clusters: nothing refers to them")
        guard repairs else { return }
        try closeGaps()
        survey.entries = try QcowSurvey(self)
        survey.result.leaks = survey.entries.leakedCount
        survey.result.leaksFixed = leaks - survey.result.leaks
    }

    /// Entries without a cluster become unallocated. A cluster with a shared place gets one of its own with
    /// the same bytes, which are durable before its entry.
    ///
    /// - Returns: `false` when the budget is used up.
    func repair(
        _ finding: QcowSurvey.Finding, _ entries: inout QcowSurvey, _ budget: inout RepairBudget
    ) throws(BlockError) -> Bool {
        if budget.wasExceeded { return false }
        switch finding {
        case .table(let number, _): dropTable(number)
        case .cluster(let guest, _, _): try setEntries(at: guest, count: 1) { _ in 0 }
        case .sharedCluster(let guest, .data(let host), _) where try isPlainHole(host):
            try setEntries(at: guest, count: 1) { _ in 0 }
        case .sharedCluster(let guest, let entry, _):
            guard budget.allowsCopy() else { return false }
            budget.spend(try copyCluster(guest, entry))
        }
        return true
    }

    /// Whether a cluster is a hole and reads as zeroes, as an unallocated one does.
    private func isPlainHole(_ host: Int) throws(BlockError) -> Bool {
        guard header.backing == nil, !header.isEncrypted else { return false }
        return try file.isHole(host..<host + header.clusterBytes)
    }

    /// Gives a cluster a new place, with the same bytes.
    ///
    /// - Returns: the number of bytes read for the copy.
    @discardableResult
    private func copyCluster(_ guest: Int, _ entry: QcowEntry) throws(BlockError) -> Int {
        let moved: UInt64
        let copied: Int
        switch entry {
        case .unallocated: return 0
        case .data(let host):
            let copy = try allocate(1)
            copied = try file.copyInside(host..<host + header.clusterBytes, to: copy)
            moved = UInt64(copy)
        case .compressed(let place):
            let copy = try allocateBytes(place.count)
            copied = try file.copyInside(place, to: copy.lowerBound)
            guard let entry = QcowEntry.compressed(copy, clusterBits: header.clusterBits) else {
                throw BlockError(
                    .noSpace, "The image file is too large for compressed clusters", path: file.filename)
            }
            moved = entry
        }
        hasUnflushedWrites = true
        try setEntries(at: guest, count: 1) { _ in moved }
        return copied
    }

    // MARK: Gaps

    /// Moves the tables and clusters in a range of the file to its end.
    ///
    /// The order: copies, a flush, the L2 entries, a flush, the L1 entries, a flush.
    /// - Returns: `false` when something in the range cannot move; nothing was changed.
    func evacuate(_ range: Range<Int>) throws(BlockError) -> Bool {
        if range.lowerBound >= end { return true }
        guard let survey = try soundSurvey(watching: range), !survey.watchedIsFixed else { return false }
        // When the range reaches over the end of the file, the copies must not land in it.
        end = max(end, range.upperBound)
        for (place, number) in survey.tablesThere { try moveTable(number, from: place, to: nil) }
        for (guest, entry) in survey.clustersThere { try copyCluster(guest, entry) }
        try commit()
        try prepareForWriting()
        return true
    }

    /// Moves the last tables and plain clusters into gaps, and cuts the file. Compressed clusters stay.
    ///
    /// The order: copies, a flush, the L2 entries, a flush, the L1 entries, a flush, the length of the file.
    func closeGaps() throws(BlockError) {
        try commit()
        guard let survey = try soundSurvey() else { return }
        if survey.unusedCount > 0 { try move(survey) }
        guard let after = try soundSurvey() else { return }
        try cut(to: after.usedEnd.roundedUp(to: Qcow.sectorBytes) ?? after.usedEnd)
    }

    /// The survey of an image without findings; `nil` when there are any. Its table places stay noted.
    private func soundSurvey(watching range: Range<Int> = 0..<0) throws(BlockError) -> QcowSurvey? {
        let places = l2Places
        defer { l2Places = places }
        guard isCountable else { return nil }
        let survey = try QcowSurvey(self, watching: range)
        return survey.findings.isEmpty ? survey : nil
    }

    private func move(_ survey: QcowSurvey) throws(BlockError) {
        // With all gaps closed, the file has this many clusters.
        let target = survey.usedCount
        let tableClusters = (header.tableBytes - 1) >> header.clusterBits + 1
        var gap = 0
        for (place, number) in survey.sound where place >> header.clusterBits >= target {
            guard let free = survey.unused(tableClusters, from: gap), free + tableClusters <= target else {
                break
            }
            try moveTable(number, from: place, to: free << header.clusterBits)
            gap = free + tableClusters
        }
        for (_, number) in survey.sound {
            let start = number * header.guestBytesPerTable
            for index in 0..<header.entriesPerTable {
                let guest = start + index << header.clusterBits
                guard guest < header.storedSize else { break }
                guard let (slot, first, _) = try entries(at: guest, limit: 1),
                    case .data(let host) = QcowEntry(entry(slot, first), clusterBits: header.clusterBits),
                    host >> header.clusterBits >= target
                else { continue }
                guard let free = survey.unused(1, from: gap), free < target else { return try commit() }
                let offset = free << header.clusterBits
                try file.copyInside(host..<host + header.clusterBytes, to: offset)
                hasUnflushedWrites = true
                try setEntries(at: guest, count: 1) { _ in UInt64(offset) }
                gap = free + 1
            }
        }
        try commit()
    }
}
