import BlockCore

extension VhdDriver: Checkable {
    /// - Throws: `io`, `noSpace`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (image) throws(BlockError) in
            if let result = try image.dynamic?.check(repair: repair, report) { return result }
            return try image.fixed.check(file, repair: repair, report)
        }
    }
}

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

extension VhdState {
    fileprivate mutating func check(
        repair: RepairMode, _ report: (String) -> Void
    ) throws(BlockError) -> CheckResult {
        var result = CheckResult()
        let hasLosses = try checkCorruptions(repair: repair == .all, &result, report)
        try checkLeaks(repair: repair != .none && !hasLosses, &result, report)
        if hasLosses && result.leaks > 0 { report(KeptLeaks.message) }
        return result
    }

    /// - Returns: whether entries without data were dropped.
    private mutating func checkCorruptions(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) -> Bool {
        let what = repair ? "Repairing" : "ERROR"
        for damage in damages { report("\(what): \(damage)") }
        var survey = try survey()
        for finding in survey.findings { report(describe(finding, what)) }
        let found = survey.findingCount + damages.count
        adopt(survey)
        let hasLosses = repair ? try !self.survey(listing: .nowhere).listed.isEmpty : false
        if repair && survey.findingCount > 0 {
            let isAll = try repairTable()
            survey = try self.survey()
            adopt(survey)
            if !isAll && survey.findingCount > 0 { report(RepairBudget.Rule.blocks.message) }
        }
        if repair && survey.findingCount == 0 && !damages.isEmpty {
            try writeHeader()
            try repairFooters()
        }
        result.corruptions = survey.findingCount + damages.count
        result.corruptionsFixed = found - result.corruptions
        result.totalClusters = blocks(of: try footer.virtualSize())
        result.allocatedClusters = survey.allocated - survey.beyondDisk
        return hasLosses
    }

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
        let target = try takePlace()
        try copies.copy(from: source, to: target, count: header.strideBytes)
        relink(block, from: source, to: target)
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
        guard repair, result.leaks > 0, survey.findingCount == 0, damages.isEmpty else { return }
        if isCopyStale { try repairFooters() }
        let blocks = blocks(of: try footer.virtualSize())
        for block in min(blocks, table.count)..<table.count { unlink(block) }
        try closeGaps()
        result.leaksFixed = result.leaks
        result.leaks = 0
    }
}
