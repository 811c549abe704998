import BlockCore

extension VhdxDriver: Checkable {
    /// - Throws: `io`, `noSpace`, `limit`, `unsupported`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (state) throws(BlockError) in
            if !state.isReadOnly && state.hasChanges { try state.commit() }
            // The log first: its replay can change the BAT and extend the file.
            var log = CheckResult()
            try state.checkLog(repair: repair != .none, &log, report)
            var result = try state.check(repair, report)
            result.corruptionsFixed += log.corruptionsFixed
            return result
        }
    }
}

/// The steps of a check, in this order.
struct VhdxRepairPlan: RepairPlan {
    enum Step: CaseIterable {
        /// The entries of the BAT, and the end of the file.
        case table
        /// The copies of the header and of the region table.
        case copies
        /// The MiB of the file without a reference.
        case leaks
    }

    let mode: RepairMode
    /// Whether entries without data are dropped.
    let hasLosses: Bool

    /// Each step counts findings, so a check takes all.
    func includes(_ step: Step, after survey: VhdxCheck) -> Bool { true }
}

/// A survey of an image with the counts of the steps so far. A value.
struct VhdxCheck {
    var table: VhdxSurvey
    var result = CheckResult()
}

extension VhdxState: Surveying {
    /// The largest number of findings of a kind that are reported one by one.
    private static let reportedFindings = 100

    mutating func survey(_ report: (String) -> Void) throws(BlockError) -> VhdxCheck {
        let survey = VhdxCheck(table: try VhdxSurvey(&self))
        space = survey.table.space
        return survey
    }

    func plan(for survey: VhdxCheck, _ mode: RepairMode) -> VhdxRepairPlan {
        let hasLosses = mode == .all && survey.table.findings.kept.contains { $0.isLoss }
        return VhdxRepairPlan(mode: mode, hasLosses: hasLosses)
    }

    func report(_ survey: VhdxCheck, _ plan: VhdxRepairPlan, to output: (String) -> Void) {
        for finding in survey.table.findings.kept.prefix(Self.reportedFindings) {
            output(describe(finding, plan.mode == .all))
        }
    }

    mutating func apply(
        _ step: VhdxRepairPlan.Step, of plan: VhdxRepairPlan, to survey: inout VhdxCheck,
        _ report: (String) -> Void
    ) throws(BlockError) {
        switch step {
        case .table:
            let found = survey.table.findings.count
            if plan.mode == .all && found > 0 {
                let isAll = try repairTable()
                survey.table = try VhdxSurvey(&self)
                space = survey.table.space
                if !isAll && survey.table.findings.count > 0 { report(RepairBudget.Rule.blocks.message) }
            }
            fileBytes = max(try file.length(), fileBytes)
            survey.result.corruptionsFixed += found - survey.table.findings.count
            survey.result.corruptions += survey.table.findings.count
            keepsTail = plan.hasLosses
        case .copies: try checkCopies(repair: plan.mode == .all, &survey.result, report)
        case .leaks:
            try checkLeaks(repair: plan.mode != .none && !plan.hasLosses, &survey.result, report)
            if plan.hasLosses && survey.result.leaks > 0 { report(KeptLeaks.message) }
        }
    }

    func result(of survey: VhdxCheck, _ plan: VhdxRepairPlan) -> CheckResult { survey.result }

    // MARK: Steps

    /// A log that is not empty is not damage: the image reads as if it were replayed.
    fileprivate mutating func checkLog(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        guard hasForeignLog else { return }
        let isEmpty = try VhdxLogReplay(file: file, header: headers.current).isEmpty
        let what = isEmpty ? "the log has no entry that is whole, and is dropped" : "the log is replayed"
        report(
            repair
                ? "Repairing: \(what)"
                : "The image was not closed: \(what) when it is opened for writing")
        guard repair else { return }
        try replayLog()
        result.corruptionsFixed += 1
    }

    private func describe(_ finding: VhdxSurvey.Finding, _ repair: Bool) -> String {
        let what = repair ? "Repairing" : "ERROR"
        return switch finding {
        case .invalid(let block): "\(what) block \(block): its BAT entry is invalid"
        case .outside(let block): "\(what) block \(block): its data is beyond the end of the file"
        case .cutOff(let block): "\(what) block \(block): the file ends within its data"
        case .shared(let block): "\(what) block \(block): its place is something else's too"
        case .withoutBitmap(let block): "ERROR block \(block): the bitmap of its sectors is missing"
        }
    }

    /// Repairs all findings in one pass. As for all changes, copies are durable before the entries.
    ///
    /// - Returns: `false` when the budget left some blocks as they are.
    private mutating func repairTable() throws(BlockError) -> Bool {
        var copies = RepairBudget(for: file, .blocks)
        _ = try VhdxSurvey(&self) { (state, finding) throws(BlockError) in
            try state.repair(finding, &copies)
            if state.table.isCrowded { try state.commit() }
        }
        try commit()
        return !copies.isExhausted
    }

    private mutating func repair(
        _ finding: VhdxSurvey.Finding, _ copies: inout RepairBudget
    ) throws(BlockError) {
        switch finding {
        case .invalid(let block), .outside(let block):
            // No readable data is lost.
            try beginChanges()
            try setEntry(ofBlock: block, to: Vhdx.zeroEntry)
        case .cutOff(let block):
            try beginChanges()
            let end = (Vhdx.offset(of: try entry(ofBlock: block)) ?? 0) + geometry.blockBytes
            if try file.length() < end { try file.resize(to: end) }
        case .shared(let block): try separate(block, &copies)
        case .withoutBitmap: break
        }
    }

    /// Gives a block a place of its own with the same bytes, or the zero entry if they are zero.
    private mutating func separate(_ block: Int, _ copies: inout RepairBudget) throws(BlockError) {
        let entry = try entry(ofBlock: block)
        guard let source = Vhdx.offset(of: entry), !copies.isExhausted else { return }
        try beginChanges()
        let mayBeZero = !metadata.leavesBlocksAllocated && !Vhdx.isPartial(entry)
        if mayBeZero, try copies.isZero(source..<source + geometry.blockBytes) {
            return try setEntry(ofBlock: block, to: Vhdx.zeroEntry)
        }
        let target = try allocate(geometry.blockBytes)
        try copies.copy(from: source, to: target, count: geometry.blockBytes)
        try setEntry(ofBlock: block, to: UInt64(target) | entry & Vhdx.stateMask)
    }

    // MARK: Copies

    /// A header that a crash interrupted is not damage: the other one is valid.
    private mutating func checkCopies(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        let what = repair ? "Repairing" : "ERROR"
        if !headers.bothAreValid {
            report("\(repair ? "Repairing" : "Note:") one of the two headers is not valid")
            if repair {
                try beginChanges()
                try headers.replace(with: headers.current, in: file)
            }
        }
        for offset in damagedRegionTables {
            report("\(what) the copy of the region table at offset \(offset)")
        }
        guard repair, !damagedRegionTables.isEmpty else {
            result.corruptions += damagedRegionTables.count
            return
        }
        try commit()
        try log(damagedRegionTables.flatMap { Self.pages(of: regions.serialised(), at: $0) })
        result.corruptionsFixed += damagedRegionTables.count
        damagedRegionTables = []
    }

    /// Page-aligned bytes, split into pages.
    static func pages(of bytes: [UInt8], at offset: Int) -> [VhdxPage] {
        stride(from: 0, to: bytes.count, by: Vhdx.pageBytes).map {
            VhdxPage(offset: offset + $0, bytes: Array(bytes[$0..<$0 + Vhdx.pageBytes]))
        }
    }

    // MARK: Leaks

    /// Checks for leaks: space without a reference that is neither a hole nor zero.
    private mutating func checkLeaks(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        result.leaks = try leakedUnits { _ in }
        guard result.leaks > 0 else { return }
        report("\(repair ? "Repairing" : "Leaked") \(result.leaks) MiB that nothing refers to")
        guard repair, result.corruptions == 0 else { return }
        let found = result.leaks
        try commit()
        try beginChanges()
        _ = try leakedUnits { (range) throws(BlockError) in
            try file.discard(at: range.lowerBound, count: range.count)
        }
        try finish()
        result.leaks = try leakedUnits { _ in }
        result.leaksFixed = found - result.leaks
    }

    /// The number of leaked MiB; calls `body` with the gaps.
    private func leakedUnits(
        _ body: (Range<Int>) throws(BlockError) -> Void
    ) throws(BlockError) -> Int {
        let length = try file.length()
        var count = 0
        var offset = 0
        while let gap = space.gap(from: offset, below: length) {
            let stored = try storedUnits(gap)
            count += stored
            if stored > 0 { try body(gap) }
            offset = gap.upperBound.roundedUp(to: Vhdx.unitBytes) ?? length
        }
        return count
    }

    /// The number of whole or partial MiB of `range` that are not zero. Zeroes do not count: copying a file
    /// can fill its holes with them.
    private func storedUnits(_ range: Range<Int>) throws(BlockError) -> Int {
        let buffer = AlignedBuffer(count: Vhdx.unitBytes)
        var count = 0
        var offset = range.lowerBound
        while offset < range.upperBound {
            let run = try file.status(at: offset, limit: range.upperBound - offset)
            if run.isZero {
                offset += max(run.length, 1)
                continue
            }
            let end = min(range.upperBound, (offset / Vhdx.unitBytes + 1) * Vhdx.unitBytes)
            var span = buffer.mutableBytes(0..<end - offset)
            try file.read(into: &span, at: offset)
            if !buffer.bytes(0..<end - offset).isZero { count += 1 }
            offset = end
        }
        return count
    }
}
