import BlockCore

extension VdiDriver: Checkable {
    /// - Throws: `io`, `noSpace`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (state) throws(BlockError) in try state.check(repair, report) }
    }
}

/// The steps of a check, in this order. Each part of the check is a step, because its findings depend on the
/// repairs before it.
struct VdiRepairPlan: RepairPlan {
    enum Step: CaseIterable {
        /// Counts uncounted blocks, and gives blocks with a shared place one of their own.
        case places
        /// Finds blocks that lie partly or wholly behind the end of the file, and fills them up or drops
        /// them.
        case missing
        /// Counts blocks without a reference, and moves others into their places.
        case leaks
    }

    let mode: RepairMode
    /// Whether entries without data are dropped.
    let hasLosses: Bool

    var repairsAll: Bool { mode == .all }

    /// Whether a step is to be done, after the steps before it.
    func includes(_ step: Step, after survey: VdiCheck) -> Bool {
        step != .places || repairsAll && survey.map.findings.count > 0
    }
}

/// A survey of an image with the counts of the steps so far. A value.
struct VdiCheck {
    var map: VdiSurvey
    /// The number of blocks behind the end of the file.
    let missing: Int
    var result = CheckResult()
}

extension VdiState: Surveying {
    mutating func survey(_ report: (String) -> Void) throws(BlockError) -> VdiCheck {
        VdiCheck(
            map: VdiSurvey(map: map, count: header.allocatedCount),
            missing: try missingBlocks().missing.count)
    }

    func plan(for survey: VdiCheck, _ mode: RepairMode) -> VdiRepairPlan {
        VdiRepairPlan(mode: mode, hasLosses: mode == .all && survey.missing > 0)
    }

    func report(_ survey: VdiCheck, _ plan: VdiRepairPlan, to output: (String) -> Void) {
        for finding in survey.map.findings.kept { output(describe(finding, plan.repairsAll)) }
    }

    mutating func apply(
        _ step: VdiRepairPlan.Step, of plan: VdiRepairPlan, to survey: inout VdiCheck,
        _ report: (String) -> Void
    ) throws(BlockError) {
        switch step {
        case .places:
            let found = survey.map.findings.count
            try separate(countIsWrong: survey.map.countIsWrong, report)
            survey.map = VdiSurvey(map: map, count: header.allocatedCount)
            survey.result.corruptionsFixed += found - survey.map.findings.count
        case .missing:
            let missing = try checkMissing(repair: plan.repairsAll, report)
            if plan.repairsAll {
                survey.result.corruptionsFixed += missing
            } else {
                survey.result.corruptions += missing
            }
        case .leaks: try checkLeaks(plan, &survey.result, report)
        }
    }

    func result(of survey: VdiCheck, _ plan: VdiRepairPlan) -> CheckResult {
        var result = survey.result
        result.corruptions += survey.map.findings.count
        return result
    }

    // MARK: Steps

    /// Checks for blocks that the file does not wholly contain. A repair drops those behind its end, and
    /// extends the file for those that it ends inside of.
    private mutating func checkMissing(
        repair: Bool, _ report: (String) -> Void
    ) throws(BlockError) -> Int {
        let (missing, cut) = try missingBlocks()
        let what = repair ? "Repairing" : "ERROR"
        for block in missing.prefix(100) {
            report("\(what) block \(block): its data is beyond the end of the file")
        }
        for block in cut.prefix(100) { report("\(what) block \(block): the file ends within its data") }
        if repair && !cut.isEmpty {
            let end = cut.reduce(0) { max($0, hostOffset(ofEntry: map[$1]) + header.blockBytes) }
            try file.resize(to: end)
        }
        if repair && !missing.isEmpty {
            for block in missing { map[block] = Vdi.unallocated }
            try commit()
        }
        return missing.count + cut.count
    }

    private func describe(_ finding: VdiSurvey.Finding, _ repair: Bool) -> String {
        let what = repair ? "Repairing" : "ERROR"
        switch finding {
        case .absurdCount:
            return "\(what) the header: it counts \(header.allocatedCount) blocks in an image of \(map.count)"
        case .beyondCount(let block):
            return "\(what) block \(block): it is stored as number \(map[block]), but only "
                + "\(header.allocatedCount) are counted"
        case .shared(let block):
            return "\(what) block \(block): its place, number \(map[block]), is another block's"
        }
    }

    /// The blocks behind the end of the file, and the blocks that it ends inside of.
    private func missingBlocks() throws(BlockError) -> (missing: [Int], cut: [Int]) {
        let length = try file.length()
        var (missing, cut): ([Int], [Int]) = ([], [])
        for block in 0..<map.count where map[block] < Vdi.discarded {
            let start = header.hostOffset(ofBlock: Int(map[block]))
            let bytes = min(header.blockBytes, header.virtualSize - block * header.blockBytes)
            if start >= length {
                missing.append(block)
            } else if start + bytes > length {
                cut.append(block)
            }
        }
        return (missing, cut)
    }

    /// Gives blocks with a shared place one of their own, in one pass through the map. The order of writes:
    /// copies and the count, a flush, the map.
    private mutating func separate(countIsWrong: Bool, _ report: (String) -> Void) throws(BlockError) {
        // The count first: the places behind it are free only then.
        if countIsWrong { try raiseCount(within: try file.length()) }
        var survey = VdiSurvey(ofEmpty: map, count: header.allocatedCount)
        var budget = RepairBudget(for: file, .clusters)
        var hole: UInt32?
        for block in 0..<map.count where map[block] < Vdi.discarded {
            let entry = map[block]
            if budget.wasExceeded { break }
            guard survey.take(Int(entry), for: block) != nil, let place = hostRange(ofBlock: block) else {
                continue
            }
            if entry != hole, try file.isHole(place) { hole = entry }
            if entry == hole {
                // The zero entry reads the same and needs no place.
                map[block] = Vdi.discarded
            } else if header.allocatedCount < VdiSurvey.mostBlocks(map), budget.allowsCopy() {
                budget.spend(try move(block))
            }
        }
        if budget.wasExceeded { report(budget.message) }
        try commit()
    }

    /// Raises the header's count to cover all blocks that the map refers to and the file contains, up to the
    /// limit. The count never falls here: counted space may belong to a block that this repair drops.
    private mutating func raiseCount(within length: Int) throws(BlockError) {
        let most = VdiSurvey.mostBlocks(map)
        var count = header.allocatedCount <= most ? header.allocatedCount : 0
        for block in 0..<map.count where map[block] < Vdi.discarded {
            let index = Int(map[block])
            if header.hostOffset(ofBlock: index) >= length {
                map[block] = Vdi.unallocated
            } else if index < most {
                count = max(count, index + 1)
            }
        }
        header.allocatedCount = count
        headerIsDirty = true
        try commit()
    }

    private mutating func checkLeaks(
        _ plan: VdiRepairPlan, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        let repair = plan.mode != .none && !plan.hasLosses
        let survey = VdiSurvey(map: map, count: header.allocatedCount)
        let leaks = survey.unusedCount
        guard leaks > 0 else { return }
        report(
            "\(repair ? "Repairing" : "Leaked") \(leaks) of \(header.allocatedCount) blocks that are"
                + " counted: nothing refers to them")
        if repair, survey.findings.count == 0 {
            try closeGaps(survey)
            result.leaksFixed = leaks
        } else {
            result.leaks = leaks
        }
        if plan.hasLosses { report(KeptLeaks.message) }
    }

    /// Moves the last blocks into unused places, so that the count equals the number of entries. The order of
    /// writes: copies, a flush, the map, a flush, the count, a flush, the length of the file.
    mutating func closeGaps(_ survey: VdiSurvey) throws(BlockError) {
        let count = survey.allocated
        var gap = 0
        for block in 0..<map.count where map[block] < Vdi.discarded && Int(map[block]) >= count {
            guard let place = survey.unused(from: gap) else { break }
            try move(block, to: UInt32(place))
            gap = place + 1
        }
        // Commits earlier changes first: the header must not be written with a count that is too low.
        try commit()
        header.allocatedCount = count
        headerIsDirty = true
        spare = SpareBlocks(survey: nil)
        try writeHeader()
        try file.flush()
        let end = header.dataOffset + count * (header.blockBytes + header.blockExtraBytes)
        if try file.length() > end { try file.resize(to: end) }
    }
}
