import BlockCore

extension QedDriver: Checkable {
    /// - Throws: `io`, `noSpace`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (tables) throws(BlockError) in
            if repair != .none { try tables.clearFeatures() }
            guard tables.isCountable else { return .uncountable(report) }
            return try tables.check(repair, report)
        }
    }
}

extension QedState {
    /// Whether the clusters of the file are few enough to be counted.
    var isCountable: Bool { end / header.clusterBytes <= Qed.Limit.checkedClusters }

    /// Repairs an unclosed image before it is written to, if that copies little.
    ///
    /// - Throws: `corrupt` when the image needs an explicit repair; `io`, `noSpace`.
    func repairUnclosed() throws(BlockError) {
        var tables = self
        // Entries whose data lies behind the end of the file are dropped only by an explicit repair.
        guard isCountable, case let found = try QedSurvey(self), found.lostClusters == 0,
            found.sharedClusters <= Qed.Limit.automaticCopyBytes / header.clusterBytes,
            try tables.check(.all, { _ in }).corruptions == 0
        else {
            throw corrupt(
                "The image was not closed properly, and is not repaired by itself: 'check -r all' may", at: 0)
        }
    }
}

/// The steps of a check, in this order.
struct QedRepairPlan: RepairPlan {
    enum Step: CaseIterable {
        /// Drops entries without data, and gives clusters with a shared place one of their own.
        case entries
        /// Counts clusters without a reference, and cuts the file behind the last used one.
        case leaks
        /// Clears the mark "needs a check".
        case close
    }

    let mode: RepairMode

    /// Whether a step is to be done, after the steps before it.
    func includes(_ step: Step, after survey: QedCheck) -> Bool {
        switch step {
        case .entries: mode == .all && !survey.entries.findings.isEmpty
        case .leaks: true
        case .close: mode == .all && survey.result.corruptions == 0
        }
    }
}

/// A survey of an image with the counts of the steps so far.
struct QedCheck {
    var entries: QedSurvey
    /// Whether entries without valid data were dropped.
    var hasLosses = false
    var result = CheckResult()
}

extension QedState: Surveying {
    func survey(_ report: (String) -> Void) throws(BlockError) -> QedCheck {
        var check = QedCheck(entries: try QedSurvey(self))
        check.result.totalClusters = header.virtualSize.dividedRoundingUp(by: header.clusterBytes)
        check.result.allocatedClusters = check.entries.allocated
        check.result.fragmentedClusters = check.entries.fragmented
        check.result.corruptions = check.entries.findings.count
        return check
    }

    func plan(for survey: QedCheck, _ mode: RepairMode) -> QedRepairPlan { QedRepairPlan(mode: mode) }

    /// A repair reports each finding itself: it depends on the repairs before it.
    func tell(_ survey: QedCheck, _ plan: QedRepairPlan, _ report: (String) -> Void) {
        if plan.mode == .all { return }
        var lines = BoundedReport()
        lines.tell(survey.entries.findings, report) { "ERROR \($0.message)" }
    }

    func apply(
        _ step: QedRepairPlan.Step, of plan: QedRepairPlan, to survey: inout QedCheck,
        _ report: (String) -> Void
    ) throws(BlockError) {
        switch step {
        case .entries: try repairEntries(&survey, report)
        case .leaks: try checkLeaks(&survey, repair: plan.mode != .none, report)
        case .close:
            let wasReadOnly = isReadOnly
            isReadOnly = false
            defer { isReadOnly = wasReadOnly }
            try finish()
        }
    }

    func result(of survey: QedCheck, _ plan: QedRepairPlan) -> CheckResult { survey.result }

    // MARK: Steps

    /// Repairs all findings in one pass.
    private func repairEntries(
        _ survey: inout QedCheck, _ report: (String) -> Void
    ) throws(BlockError) {
        var budget = RepairBudget(for: file, .clusters)
        var lines = BoundedReport()
        let pass = try QedSurvey(self) { (pass, finding) throws(BlockError) in
            lines.tell("Repairing \(finding.message)", report)
            if finding.isLoss { survey.hasLosses = true }
            try repair(finding, &pass, &budget)
        }
        if budget.wasExceeded { report(budget.message) }
        survey.entries = try QedSurvey(self)
        survey.result.corruptions = survey.entries.findings.count
        survey.result.corruptionsFixed = max(0, pass.findings.count - survey.entries.findings.count)
    }

    private func repair(
        _ finding: QedSurvey.Finding, _ survey: inout QedSurvey, _ budget: inout RepairBudget
    ) throws(BlockError) {
        switch finding {
        case .table(let number, _): try setL2Table(number: number, to: 0)
        case .misplaced(let guest, _), .behindEnd(let guest, _):
            try setEntries(at: guest, count: 1) { _ in 0 }
        case .cut(_, let offset):
            // Its lost bytes become zeroes.
            try file.resize(to: offset + header.clusterBytes)
        case .shared(let guest, let offset): try separate(guest, from: offset, &survey, &budget)
        }
    }

    /// Gives a cluster a place of its own with the same bytes, which are durable before its entry. A hole
    /// becomes a zero cluster.
    private func separate(
        _ guest: Int, from offset: Int, _ survey: inout QedSurvey, _ budget: inout RepairBudget
    ) throws(BlockError) {
        if budget.wasExceeded { return }
        let shared = offset..<offset + header.clusterBytes
        if try file.isHole(shared) {
            return try setEntries(at: guest, count: 1) { _ in Qed.zeroCluster }
        }
        guard budget.allowsCopy() else { return }
        let place = try allocate(1)
        survey.append(place)
        budget.spend(try file.copyInside(shared, to: place))
        hasUnflushedWrites = true
        try setEntries(at: guest, count: 1) { _ in UInt64(place) }
    }

    /// Cuts the file behind the last used cluster. A gap before it stays a leak, because the format cannot
    /// reuse it.
    private func checkLeaks(
        _ survey: inout QedCheck, repair: Bool, _ report: (String) -> Void
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
