import BlockCore

extension QedDriver: Checkable {
    /// - Throws: `io`, `noSpace`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (tables) throws(BlockError) in
            if repair != .none { try tables.clearFeatures() }
            return try tables.checkEntries(repair, report)
        }
    }
}

extension QedState {
    /// Repairs an unclosed image before it is written to, if that copies little.
    ///
    /// - Throws: `corrupt` when the image needs an explicit repair; `io`, `noSpace`.
    func repairUnclosed() throws(BlockError) {
        // Entries whose data lies behind the end of the file are dropped only by an explicit repair.
        guard isCountable, case let found = try QedSurvey(self), found.lostClusters == 0,
            found.sharedClusters <= Qed.Limit.automaticCopyBytes / header.clusterBytes,
            try checkEntries(.all, { _ in }).corruptions == 0
        else {
            throw corrupt(
                "The image was not closed properly, and is not repaired by itself: 'check -r all' may", at: 0)
        }
    }
}

extension QedState: EntrySurveying {
    typealias Entries = QedSurvey

    var isCountable: Bool { end / header.clusterBytes <= Qed.Limit.checkedClusters }

    func surveyEntries(_ repair: Repairing) throws(BlockError) -> QedSurvey {
        try QedSurvey(self, repair: repair)
    }

    func counts(of entries: QedSurvey) -> CheckResult {
        var result = CheckResult()
        result.totalClusters = header.virtualSize.dividedRoundingUp(by: header.clusterBytes)
        result.allocatedClusters = entries.allocated
        result.fragmentedClusters = entries.fragmented
        return result
    }

    func repair(
        _ finding: QedSurvey.Finding, _ entries: inout QedSurvey, _ budget: inout RepairBudget
    ) throws(BlockError) -> Bool {
        switch finding {
        case .table(let number, _): try setL2Table(number: number, to: 0)
        case .misplaced(let guest, _), .behindEnd(let guest, _):
            try setEntries(at: guest, count: 1) { _ in 0 }
        case .cut(_, let offset):
            // Its lost bytes become zeroes.
            try file.resize(to: offset + header.clusterBytes)
        case .shared(let guest, let offset): try separate(guest, from: offset, &entries, &budget)
        }
        return true
    }

    /// Gives a cluster a place of its own with the same bytes, which are durable before its entry. A hole
    /// becomes a zero cluster.
    private func separate(
        _ guest: Int, from offset: Int, _ entries: inout QedSurvey, _ budget: inout RepairBudget
    ) throws(BlockError) {
        if budget.wasExceeded { return }
        let shared = offset..<offset + header.clusterBytes
        if try file.isHole(shared) {
            return try setEntries(at: guest, count: 1) { _ in Qed.zeroCluster }
        }
        guard budget.allowsCopy() else { return }
        let place = try allocate(1)
        entries.append(place)
        budget.spend(try file.copyInside(shared, to: place))
        hasUnflushedWrites = true
        try setEntries(at: guest, count: 1) { _ in UInt64(place) }
    }

    /// Repairs leaks, and clears the mark "needs a check" when nothing is left to repair.
    func checkLeaks(
        _ survey: inout EntryCheck<QedSurvey>, _ mode: RepairMode, _ report: (String) -> Void
    ) throws(BlockError) {
        try cutLeaks(&survey, repair: mode != .none, report)
        guard mode == .all, survey.result.corruptions == 0 else { return }
        let wasReadOnly = isReadOnly
        isReadOnly = false
        defer { isReadOnly = wasReadOnly }
        try finish()
    }

    /// Cuts the file behind the last used cluster. A gap before it stays a leak, because the format cannot
    /// reuse it.
    private func cutLeaks(
        _ survey: inout EntryCheck<QedSurvey>, repair: Bool, _ report: (String) -> Void
    ) throws(BlockError) {
        let used = survey.entries.used
        var clusters = end / header.clusterBytes
        // A partial cluster at the end of the file is padding of the program that wrote it.
        if try file.length() < end, used.end < clusters { clusters -= 1 }
        let leaks = max(0, clusters - used.usedCount)
        survey.result.leaks = leaks
        guard leaks > 0 else { return }
        let repairs = repair && survey.result.corruptions == 0 && !survey.hasLosses
        report("\(repairs ? "Repairing" : "Leaked") \(leaks) clusters: nothing refers to them")
        if survey.hasLosses { report(KeptLeaks.message) }
        guard repairs, used.end < clusters else { return }
        try commit()
        end = used.end * header.clusterBytes
        try file.resize(to: end)
        try file.flush()
        survey.result.leaksFixed = clusters - used.end
        survey.result.leaks -= survey.result.leaksFixed
    }
}
