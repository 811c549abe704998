import BlockCore

extension VhdDriver: Checkable {
    /// - Throws: `io`, `noSpace`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (image) throws(BlockError) in
            if let result = try image.dynamic?.check(repair, report) { return result }
            return try image.fixed.check(file, repair: repair, report)
        }
    }
}

/// Not a ``Surveying`` check: a fixed image has no table, only a footer and a length.
extension VhdFixed {
    fileprivate mutating func check(
        _ file: BlockNode, repair: RepairMode, _ report: (String) -> Void
    ) throws(BlockError) -> CheckResult {
        var result = CheckResult()
        let needed = try neededBytes()
        let size = try footer.virtualSize()
        for damage in damages { report("\(repair == .all ? "Repairing" : "ERROR"): \(damage)") }
        result.corruptions = damages.count
        if size > footerOffset {
            report("\(repair == .all ? "Repairing" : "ERROR"): the disk is longer than the file")
            result.corruptions += 1
        } else if needed < footerOffset {
            report(
                "\(repair != .none ? "Repairing" : "Leaked") \(footerOffset - needed) bytes behind the disk")
            result.leaks = 1
        }
        if repair == .all, result.corruptions > 0 {
            // Zeroes replace the old footer, which is inside the disk.
            try grow(from: min(size, footerOffset), to: size, file)
            damages = []
            result.corruptionsFixed = result.corruptions
            result.corruptions = 0
        }
        if repair != .none, result.leaks > 0, result.corruptions == 0 {
            try cut(to: needed, file)
            result.leaksFixed = 1
            result.leaks = 0
        }
        result.imageEndOffset = footerOffset + Vhd.footerBytes
        return result
    }
}

/// The steps of a check of a dynamic image, in this order.
struct VhdRepairPlan: RepairPlan {
    enum Step: CaseIterable {
        /// Drops blocks without data, and gives blocks with a shared place one of their own.
        case table
        /// Writes damaged headers and footers anew, once the table is sound.
        case descriptions
        /// Counts places without a reference, and moves blocks into them.
        case leaks
    }

    let mode: RepairMode
    /// Whether entries without data are dropped.
    let hasLosses: Bool

    /// Whether a step is to be done, after the steps before it.
    func includes(_ step: Step, after survey: VhdCheck) -> Bool {
        switch step {
        case .table: mode == .all && survey.table.findings.count > 0
        case .descriptions: mode == .all && survey.table.findings.count == 0
        case .leaks: true
        }
    }
}

/// A survey of a dynamic image with the counts of the steps so far. A value.
struct VhdCheck {
    var table: VhdSurvey
    /// The number of findings before the repair.
    let found: Int
    var result = CheckResult()
}

extension VhdState: Surveying {
    mutating func survey(_ report: (String) -> Void) throws(BlockError) -> VhdCheck {
        let table = try survey(listing: .nowhere)
        adopt(table)
        var check = VhdCheck(table: table, found: table.findings.count + damages.count)
        check.result.totalClusters = blocks(of: try footer.virtualSize())
        return check
    }

    func plan(for survey: VhdCheck, _ mode: RepairMode) -> VhdRepairPlan {
        VhdRepairPlan(mode: mode, hasLosses: mode == .all && !survey.table.listed.isEmpty)
    }

    func report(_ survey: VhdCheck, _ plan: VhdRepairPlan, to output: (String) -> Void) {
        let what = plan.mode == .all ? "Repairing" : "ERROR"
        for damage in damages { output("\(what): \(damage)") }
        for finding in survey.table.findings.kept { output(describe(finding, what)) }
    }

    mutating func apply(
        _ step: VhdRepairPlan.Step, of plan: VhdRepairPlan, to survey: inout VhdCheck,
        _ report: (String) -> Void
    ) throws(BlockError) {
        switch step {
        case .table:
            let isAll = try repairTable()
            survey.table = try self.survey()
            adopt(survey.table)
            if !isAll && survey.table.findings.count > 0 { report(RepairBudget.Rule.blocks.message) }
        case .descriptions where damages.isEmpty: break
        case .descriptions:
            try writeHeader()
            try repairFooters()
        case .leaks:
            try checkLeaks(repair: plan.mode != .none && !plan.hasLosses, &survey.result, report)
            if plan.hasLosses && survey.result.leaks > 0 { report(KeptLeaks.message) }
        }
    }

    func result(of survey: VhdCheck, _ plan: VhdRepairPlan) -> CheckResult {
        var result = survey.result
        result.corruptions = survey.table.findings.count + damages.count
        result.corruptionsFixed = survey.found - result.corruptions
        result.allocatedClusters = survey.table.allocated - survey.table.beyondDisk
        return result
    }

    // MARK: Steps

    private func describe(_ finding: VhdSurvey.Finding, _ what: String) -> String {
        let problem =
            switch finding.kind {
            case .nowhere: "there is no block where its entry points to"
            case .shared: "its place is another block's, too"
            case .cut: "it does not end before the end of the file"
            }
        return "\(what) block \(finding.block): \(problem)"
    }

    /// Repairs all findings in one pass.
    ///
    /// - Returns: `false` when the budget left some blocks as they are.
    private mutating func repairTable() throws(BlockError) -> Bool {
        // The footer first, behind all used space: only then is there space for copies.
        for block in try self.survey(listing: .nowhere).listed { unlink(Int(block)) }
        try commit()
        let survey = try self.survey(listing: .shared)
        nextFree = survey.end.roundedUp(to: Vhd.sectorBytes) ?? survey.end
        if footerOffset.map({ $0 < nextFree }) ?? true {
            footerOffset = footerOffset.map { max($0, nextFree) }
            try repairFooters()
        }
        var copies = RepairBudget(for: file, .blocks)
        for block in survey.listed where !copies.isExhausted { try separate(Int(block), &copies) }
        try commit()
        return !copies.isExhausted
    }

    /// Gives a block a place of its own with the same bytes, or no place if they are zero.
    private mutating func separate(_ block: Int, _ copies: inout RepairBudget) throws(BlockError) {
        guard let source = place(of: block) else { return }
        let data = source + header.bitmapBytes..<source + header.strideBytes
        if !isDifferencing, try copies.isZero(data) { return unlink(block) }
        copies.spend(try move(block))
    }

    private mutating func checkLeaks(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        let what = repair ? "Repairing" : "Leaked"
        let survey = try survey()
        result.imageEndOffset = survey.end + Vhd.footerBytes
        let tail = footerOffset.map { header.room(in: survey.end..<max($0, survey.end)) } ?? 0
        let unused = survey.spareCount + tail + survey.beyondDisk
        if unused > 0 { report("\(what) room for \(unused) blocks: nothing uses it") }
        if isCopyStale { report("\(what): the copy of the footer is older than the footer") }
        result.leaks = unused + (isCopyStale ? 1 : 0)
        guard repair, result.leaks > 0, survey.findings.count == 0, damages.isEmpty else { return }
        if isCopyStale { try repairFooters() }
        let blocks = blocks(of: try footer.virtualSize())
        for block in min(blocks, table.count)..<table.count { unlink(block) }
        try closeGaps()
        result.leaksFixed = result.leaks
        result.leaks = 0
    }
}
