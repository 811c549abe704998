import BlockCore

extension VhdDriver: Checkable {
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        switch body {
        case .fixed(let fixed):
            try fixed.withLock { (fixed) throws(BlockError) in
                try fixed.check(file, repair: repair, report)
            }
        case .dynamic(let state):
            try exclusively(state) { (state) throws(BlockError) in
                var result = CheckResult()
                try state.checkCorruptions(repair: repair == .all, &result, report)
                try state.checkLeaks(repair: repair != .none, &result, report)
                return result
            }
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
            // Over the old footer, where the disk goes on, come zeroes.
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
    fileprivate mutating func checkCorruptions(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        let what = repair ? "Repairing" : "ERROR"
        for damage in damages { report("\(what): \(damage)") }
        var survey = try survey()
        for finding in survey.findings { report(describe(finding, what)) }
        let found = survey.findingCount + damages.count
        adopt(survey)
        // Findings are kept in limited numbers, so that it may take several looks to mend all.
        var progresses = repair
        while progresses && survey.findingCount > 0 {
            let before = survey.findingCount
            try mend(survey)
            survey = try self.survey()
            adopt(survey)
            progresses = survey.findingCount < before
        }
        if repair && survey.findingCount == 0 && !damages.isEmpty {
            try writeHeader()
            try mendFooters()
        }
        result.corruptions = survey.findingCount + damages.count
        result.corruptionsFixed = found - result.corruptions
        result.totalClusters = blocks(of: try footer.virtualSize())
        result.allocatedClusters = survey.allocated - survey.beyondDisk
    }

    private func describe(_ finding: VhdSurvey.Finding, _ what: String) -> String {
        switch finding {
        case .nowhere(let block): "\(what) block \(block): there is no block where its entry points to"
        case .shared(let block): "\(what) block \(block): its place is another block's, too"
        case .cut(let block): "\(what) block \(block): it does not end before the end of the file"
        }
    }

    private mutating func mend(_ survey: VhdSurvey) throws(BlockError) {
        // First a footer behind all that is used: only then is there space for copies.
        for finding in survey.findings {
            if case .nowhere(let block) = finding { unlink(block) }
        }
        try commit()
        let end = try self.survey().end
        nextFree = end.roundedUp(to: Vhd.sectorBytes) ?? end
        if footerOffset.map({ $0 < nextFree }) ?? true {
            footerOffset = footerOffset.map { max($0, nextFree) }
            try mendFooters()
        }
        for finding in survey.findings {
            if case .shared(let block) = finding { try move(block, to: takePlace()) }
        }
        try commit()
    }

    fileprivate mutating func checkLeaks(
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
        if isCopyStale { try mendFooters() }
        let blocks = blocks(of: try footer.virtualSize())
        for block in min(blocks, table.count)..<table.count { unlink(block) }
        try closeGaps()
        result.leaksFixed = result.leaks
        result.leaks = 0
    }
}
