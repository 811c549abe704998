import BlockCore

/// The steps of a check of a sparse extent, in this order.
struct VmdkRepairPlan: RepairPlan {
    enum Step: CaseIterable {
        /// Drops entries without data, and gives grains and tables with a shared place one of their own.
        case entries
        /// Counts unused space and outdated redundant tables, and moves grains into the space.
        case leaks
    }

    let mode: RepairMode
    /// The number of findings before the repair.
    let found: Int

    var what: String { mode == .all ? "Repairing" : "ERROR" }

    func includes(_ step: Step, after survey: VmdkSurvey) -> Bool {
        step == .leaks || mode == .all && !survey.findings.isEmpty
    }
}

/// The check of the grain tables of a sparse extent.
struct VmdkSparseCheck: Surveying {
    let tables: VmdkGrainTables
    let hasParent: Bool
    /// Whether entries without data were dropped.
    private var hasLosses = false
    private var result = CheckResult()

    init(tables: VmdkGrainTables, hasParent: Bool) {
        self.tables = tables
        self.hasParent = hasParent
    }

    func survey(_ report: (String) -> Void) throws(BlockError) -> VmdkSurvey { try VmdkSurvey(tables) }

    func plan(for survey: VmdkSurvey, _ mode: RepairMode) -> VmdkRepairPlan {
        VmdkRepairPlan(mode: mode, found: survey.findings.count)
    }

    func report(_ survey: VmdkSurvey, _ plan: VmdkRepairPlan, to output: (String) -> Void) {
        for finding in survey.findings.kept { output("\(plan.what) \(describe(finding))") }
    }

    mutating func apply(
        _ step: VmdkRepairPlan.Step, of plan: VmdkRepairPlan, to survey: inout VmdkSurvey,
        _ report: (String) -> Void
    ) throws(BlockError) {
        switch step {
        case .entries: try repairEntries(&survey, report)
        case .leaks: try checkLeaks(&survey, repair: plan.mode != .none, report)
        }
    }

    func result(of survey: VmdkSurvey, _ plan: VmdkRepairPlan) -> CheckResult {
        var result = result
        result.corruptions = survey.findings.count
        result.corruptionsFixed = max(0, plan.found - survey.findings.count)
        return result
    }

    // MARK: Steps

    /// One pass repairs all findings. Entries from redundant tables can need a repair too, so passes continue
    /// while they make progress.
    private mutating func repairEntries(
        _ survey: inout VmdkSurvey, _ report: (String) -> Void
    ) throws(BlockError) {
        var budget = RepairBudget(for: tables.file, .clusters)
        var progresses = true
        while progresses && !survey.findings.isEmpty {
            let before = survey.findings.count
            _ = try VmdkSurvey(tables) { finding throws(BlockError) in try repair(finding, &budget) }
            try tables.commit()
            // The next survey must read the file, not the tables in memory.
            tables.forgetTables()
            survey = try VmdkSurvey(tables)
            progresses = survey.findings.count < before && !budget.wasExceeded
        }
        if budget.wasExceeded { report(budget.message) }
    }

    private func describe(_ finding: VmdkSurvey.Finding) -> String {
        switch finding {
        case .badTable(let number): "grain table \(number): it lies outside the file or over something else"
        case .beyondEnd(let grain): "grain \(grain): it lies beyond the end of the file"
        case .shared(let grain): "grain \(grain): it lies over metadata or another grain"
        case .badMarker(let grain): "grain \(grain): the marker of its compressed data is damaged"
        }
    }

    private mutating func repair(
        _ finding: VmdkSurvey.Finding, _ budget: inout RepairBudget
    ) throws(BlockError) {
        switch finding {
        case .badTable(let number):
            guard budget.allowsCopy() else { return }
            budget.spend(tables.header.tableBytes)
            try repairTable(number)
        case .beyondEnd(let grain), .badMarker(let grain):
            // The grain has no data to lose, but the redundant table may hold its place.
            let number = grain / tables.entriesPerTable
            var entry = try tables.redundantTable(number)?[grain % tables.entriesPerTable] ?? 0
            let (damaged, length) = (try tables.entry(grain), try tables.file.length())
            if entry == damaged || Int(entry) * Vmdk.sectorBytes >= length { entry = 0 }
            if entry == 0 { hasLosses = true }
            try tables.link(grain..<grain + 1) { _ in entry }
        case .shared(let grain): try separate(grain, &budget)
        }
    }

    /// Replaces a table by a new one with the entries of the redundant copy, if there is one.
    private mutating func repairTable(_ number: Int) throws(BlockError) {
        let empty = [UInt32](repeating: 0, count: tables.entriesPerTable)
        let copy = try tables.redundantTable(number)
        if copy == nil { hasLosses = true }
        try tables.replaceTable(number, with: copy ?? empty)
    }

    /// Gives a grain a place of its own with the same bytes; a hole becomes a zero grain.
    private func separate(_ grain: Int, _ budget: inout RepairBudget) throws(BlockError) {
        if budget.wasExceeded { return }
        let start = try tables.hostOffset(tables.entry(grain))
        let isCompressed = tables.header.isCompressed
        let count =
            isCompressed ? VmdkGrainCodec.maximumBytes(grainBytes: tables.grainBytes) : tables.grainBytes
        let source = start..<start + count
        if !isCompressed, let zero = zeroEntry(tables.header), try tables.file.isHole(source) {
            return try tables.link(grain..<grain + 1) { _ in zero }
        }
        guard budget.allowsCopy() else { return }
        let place = try tables.allocate(count)
        budget.spend(try tables.file.copyInside(source, to: place))
        try tables.link(grain..<grain + 1) { _ in UInt32(place / Vmdk.sectorBytes) }
    }

    /// The entry of a zero grain without a place; `nil` when a zero grain needs one.
    private func zeroEntry(_ header: VmdkSparseHeader) -> UInt32? {
        header.hasZeroGrains ? Vmdk.zeroGrain : hasParent ? nil : 0
    }

    private mutating func checkLeaks(
        _ survey: inout VmdkSurvey, repair: Bool, _ report: (String) -> Void
    ) throws(BlockError) {
        let repairs = repair && survey.findings.isEmpty && !hasLosses
        if hasLosses && survey.leaks > 0 { report(KeptLeaks.message) }
        if survey.staleTables.count > 0 {
            report(
                "\(repairs ? "Repairing" : "Leaked") \(survey.staleTables.count) redundant grain tables: "
                    + "they are not like the primary ones, which count")
        }
        if survey.leaks > 0 {
            report(
                "\(repairs ? "Repairing" : "Leaked") room for \(survey.leaks) grains, "
                    + "which nothing refers to")
        }
        let found = survey.leaks + survey.staleTables.count
        guard repairs, found > 0 else {
            result.leaks = found
            return
        }
        for number in survey.staleTables.kept { try tables.markForRewriting(number) }
        try tables.commit()
        if survey.leaks > 0 { try VmdkCompaction(tables).run() }
        survey = try VmdkSurvey(tables)
        result.leaks = survey.leaks + survey.staleTables.count
        result.leaksFixed = max(0, found - result.leaks)
    }
}
