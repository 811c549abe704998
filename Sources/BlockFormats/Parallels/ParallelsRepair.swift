import BlockCore

extension ParallelsDriver: Checkable {
    /// - Throws: `io`, `noSpace`, `limit`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (state) throws(BlockError) in try state.check(repair: repair, report) }
    }
}

extension ParallelsState {
    /// Surveys the image before the first change and, as QEMU does, repairs it if it was not closed or has
    /// findings.
    mutating func prepareForWriting() throws(BlockError) {
        guard !isSound else { return }
        if let obstacle = features.obstacle { throw BlockError(.unsupported, obstacle) }
        try refuseLoss()
        let survey = try survey()
        if isUnclean || survey.findings.count > 0 || layout.headerIsWrong || tableIsShort {
            let missing = header.entries(forSize: header.virtualSize) - table.count
            guard survey.copyCount <= Parallels.Limit.automaticCopies,
                missing <= Parallels.Limit.automaticEntries
            else { throw damaged }
            guard try check(repair: .all, { _ in }).corruptions == 0 else { throw damaged }
        } else {
            try adopt(survey)
        }
        isSound = true
    }

    /// Blocks behind the end of the file are dropped only by an explicit repair.
    private func refuseLoss() throws(BlockError) {
        var end = 0
        for block in 0..<table.count where table[block] != Parallels.unallocated {
            let bytes = min(layout.clusterBytes, header.virtualSize - block * layout.clusterBytes)
            end = max(end, layout.hostOffset(table[block]) + max(0, bytes))
        }
        guard try file.length() < end else { return }
        var error = try file.cutError(end: end, at: end)
        error.message += "; it can be read, as far as it is there, and repaired with 'check -r all'"
        throw error
    }

    private var damaged: BlockError {
        BlockError(
            .corrupt,
            "The image's block allocation table is damaged; it can be read, and repaired with 'check -r all'")
    }

    /// Uses the space that a survey found.
    private mutating func adopt(_ survey: ParallelsSurvey) throws(BlockError) {
        space = survey.space
        guard features.keepsUnknown else { return }
        // Unknown sections may own clusters anywhere: new clusters are placed behind the end of the file.
        let clusters = max(0, try file.length() - layout.dataStart - 1) / layout.clusterBytes
        guard clusters < Parallels.Limit.fileClusters else {
            throw BlockError(.limit, "The clusters of the image are scattered too far")
        }
        space.mark(clusters)
    }

    /// Checks and repairs; first reports an image that was not closed.
    mutating func check(repair: RepairMode, _ report: (String) -> Void) throws(BlockError) -> CheckResult {
        if isUnclean { report("\(repair == .all ? "Repairing" : "ERROR") image was not closed correctly") }
        return try check(repair, report)
    }
}

/// The steps of a check, in this order. Each part of the check is a step, because its findings depend on the
/// repairs before it.
struct ParallelsRepairPlan: RepairPlan {
    enum Step: CaseIterable {
        /// The start of the data area, and the format extension.
        case header
        /// The entries of the block allocation table.
        case table
        /// The length of the table: it must have entries for all of the disk.
        case length
        /// Clears the mark "in use" of an unclosed image.
        case close
        /// The bytes of the file behind the last used cluster.
        case leaks
    }

    let mode: RepairMode
    let wasUnclean: Bool

    var repairsAll: Bool { mode == .all }

    /// Whether a step is to be done, after the steps before it.
    func includes(_ step: Step, after survey: ParallelsCheck) -> Bool { step != .close || wasUnclean }
}

/// A survey of an image with the counts of the steps so far. A value.
struct ParallelsCheck {
    var table: ParallelsSurvey
    /// Whether a repair drops data of entries or the format extension.
    var isLossy: Bool
    var result = CheckResult()
}

extension ParallelsState: Surveying {
    mutating func survey(_ report: (String) -> Void) throws(BlockError) -> ParallelsCheck {
        let hasProblem = features.problem != nil
        return ParallelsCheck(table: try survey(), isLossy: hasProblem)
    }

    func plan(for survey: ParallelsCheck, _ mode: RepairMode) -> ParallelsRepairPlan {
        ParallelsRepairPlan(mode: mode, wasUnclean: isUnclean)
    }

    /// Does nothing: each step reports its findings.
    func report(_ survey: ParallelsCheck, _ plan: ParallelsRepairPlan, to output: (String) -> Void) {}

    mutating func apply(
        _ step: ParallelsRepairPlan.Step, of plan: ParallelsRepairPlan, to survey: inout ParallelsCheck,
        _ report: (String) -> Void
    ) throws(BlockError) {
        let repairsAll = plan.repairsAll
        switch step {
        case .header:
            if repairsAll { try adopt(survey.table) }
            try checkHeader(repairsAll, &survey.result, report)
        case .table:
            survey.table = try self.survey()
            if repairsAll { try adopt(survey.table) }
            survey.isLossy = survey.isLossy || survey.table.findings.kept.contains { $0.isLoss }
            try checkTable(survey.table, repairsAll, &survey.result, report)
        case .length:
            try checkTableLength(repairsAll && survey.result.corruptions == 0, &survey.result, report)
        case .close:
            if repairsAll {
                try beginChanges()
                isUnclean = false
            }
            survey.result.count(1, fixed: repairsAll)
        case .leaks: try checkLeaks(plan, &survey, report)
        }
    }

    func result(of survey: ParallelsCheck, _ plan: ParallelsRepairPlan) -> CheckResult {
        var result = survey.result
        result.totalClusters = table.count
        result.allocatedClusters = survey.table.allocated
        result.fragmentedClusters = survey.table.fragmented
        return result
    }

    /// Leaks stay when they may hold the data of dropped entries.
    private mutating func checkLeaks(
        _ plan: ParallelsRepairPlan, _ survey: inout ParallelsCheck, _ report: (String) -> Void
    ) throws(BlockError) {
        if plan.repairsAll {
            survey.table = try self.survey()
            try adopt(survey.table)
        }
        let hasLosses = plan.repairsAll && survey.isLossy
        try checkLeaks(survey.table, hasLosses ? .none : plan.mode, &survey.result, report)
        if hasLosses && survey.result.leaks > 0 { report(KeptLeaks.message) }
    }

    // MARK: Steps

    /// Checks the header and the format extension.
    private mutating func checkHeader(
        _ repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        let what = repair ? "Repairing" : "ERROR"
        if layout.headerIsWrong {
            report("\(what) data_off field has incorrect value")
            if repair { try correctDataOffset() }
            result.count(1, fixed: repair)
        }
        if let problem = features.problem {
            report("\(what) format extension: \(problem)")
            if repair {
                // The first change of a session drops the extension.
                try beginChanges()
                features.dropProblem()
            }
            result.count(1, fixed: repair)
        }
    }

    private mutating func checkTableLength(
        _ repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        guard tableIsShort else { return }
        let needed = header.entries(forSize: header.virtualSize)
        let canGrow = repair && needed <= Parallels.Limit.entries
        report(
            "\(canGrow ? "Repairing" : "ERROR") block allocation table: it has \(table.count) entries, the"
                + " disk needs \(needed)")
        if canGrow {
            try beginChanges()
            try grow(to: header.virtualSize)
        }
        result.count(1, fixed: canGrow)
    }

    private mutating func correctDataOffset() throws(BlockError) {
        try beginChanges()
        // Extends a file that ends before its data area: the new offset would be wrong otherwise.
        if try file.length() < layout.dataStart { try file.resize(to: layout.dataStart) }
        header.dataSector = layout.dataStart / Parallels.sectorBytes
        try writeHeader()
        layout = ParallelsLayout(
            clusterBytes: layout.clusterBytes, entryUnit: layout.entryUnit, tableEnd: layout.tableEnd,
            dataStart: layout.dataStart, headerIsWrong: false)
    }

    private mutating func checkTable(
        _ survey: ParallelsSurvey, _ repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        for finding in survey.findings.kept { report(finding.text(repair ? "Repairing" : "ERROR")) }
        var left = survey.findings.count
        if repair && left > 0 {
            let isAll = try repairTable()
            let after = try self.survey()
            try adopt(after)
            left = after.findings.count
            if !isAll && left > 0 { report(RepairBudget.Rule.blocks.message) }
        }
        result.corruptions += left
        result.corruptionsFixed += survey.findings.count - left
    }

    /// Blocks without data become unallocated; blocks with a shared or misaligned place get a copy of it. The
    /// order of writes: copies, a flush, the entries.
    ///
    /// - Returns: `false` when the budget left some blocks as they are.
    private mutating func repairTable() throws(BlockError) -> Bool {
        try beginChanges()
        var copies = RepairBudget(for: file, .blocks)
        var survey = ParallelsSurvey(of: table.count, layout, fileBytes: try file.length())
        for block in 0..<table.count where table[block] != Parallels.unallocated {
            switch try survey.look(at: block, table[block]) {
            case nil: continue
            case .outside: table[block] = Parallels.unallocated
            case .cut:
                let end = layout.hostOffset(table[block]) + layout.clusterBytes
                if try file.length() < end { try file.resize(to: end) }
            case .misaligned, .shared:
                if !copies.isExhausted { copies.spend(try move(block)) }
            }
        }
        try commit()
        return !copies.isExhausted
    }

    /// Checks the bytes of the file behind the last used cluster. Gaps before it are free space, which is
    /// granted first.
    private mutating func checkLeaks(
        _ survey: ParallelsSurvey, _ repair: RepairMode, _ result: inout CheckResult,
        _ report: (String) -> Void
    ) throws(BlockError) {
        let end = layout.hostOffset(ofCluster: survey.space.end)
        let leaked = try file.length() - end
        result.imageEndOffset = end
        guard leaked > 0, !features.keepsUnknown else { return }
        let count = (leaked + layout.clusterBytes - 1) / layout.clusterBytes
        let repairs = repair != .none && result.corruptions == 0 && !layout.headerIsWrong
        report("\(repairs ? "Repairing" : "ERROR") space leaked at the end of the image \(leaked)")
        if repairs {
            try beginChanges()
            try file.resize(to: end)
            try file.flush()
            result.leaksFixed = count
        } else {
            result.leaks = count
        }
    }
}

extension CheckResult {
    fileprivate mutating func count(_ corruptions: Int, fixed: Bool) {
        if fixed { corruptionsFixed += corruptions } else { self.corruptions += corruptions }
    }
}

extension ParallelsSurvey.Finding {
    fileprivate func text(_ what: String) -> String {
        switch self {
        case .outside(let block): "\(what) cluster \(block) is outside image"
        case .cut(let block): "\(what) cluster \(block) is not all in the file"
        case .misaligned(let block): "\(what) offset in BAT entry \(block) is not where a cluster begins"
        case .shared(let block): "\(what) duplicate offset in BAT entry \(block)"
        }
    }
}
