import BlockCore

extension VdiDriver: Checkable {
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (state) throws(BlockError) in
            var result = CheckResult()
            let hasLosses = try state.checkCorruptions(repair: repair == .all, &result, report)
            try state.checkLeaks(repair: repair != .none && !hasLosses, &result, report)
            if hasLosses && result.leaks > 0 { report(KeptLeaks.message) }
            return result
        }
    }
}

extension VdiState {
    /// - Returns: whether entries that pointed nowhere were given up.
    mutating func checkCorruptions(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) -> Bool {
        let hasLosses = repair ? try !missingBlocks().missing.isEmpty : false
        var survey = VdiSurvey(map: map, count: header.allocatedCount)
        for finding in survey.findings { report(describe(finding, repair)) }
        let found = survey.findingCount
        if repair && found > 0 {
            try mend(countIsWrong: survey.countIsWrong, report)
            survey = VdiSurvey(map: map, count: header.allocatedCount)
        }
        let missing = try checkMissing(repair: repair, report)
        result.corruptionsFixed = found - survey.findingCount + (repair ? missing : 0)
        result.corruptions = found + missing - result.corruptionsFixed
        return hasLosses
    }

    /// Blocks of which the file lacks bytes of the disk. A repair drops those of which it has none, and makes
    /// the file long enough for the others.
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
            let end = cut.reduce(0) { max($0, hostRange(ofBlock: Int(map[$1])).upperBound) }
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

    /// Blocks none of whose bytes the file has, and blocks in whose part of the disk it ends.
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

    /// Goes through the map once: blocks whose place is another's get one of their own. The order is that of
    /// all changes: copies and the count, a flush, the map.
    private mutating func mend(countIsWrong: Bool, _ report: (String) -> Void) throws(BlockError) {
        // First the count: only then are the places of copies free.
        if countIsWrong { try raiseCount(within: try file.length()) }
        var survey = VdiSurvey(ofEmpty: map, count: header.allocatedCount)
        var budget = CopyBudget(for: file)
        var hole: UInt32?
        for block in 0..<map.count where map[block] < Vdi.discarded {
            let entry = map[block]
            if budget.wasExceeded { break }
            guard survey.take(Int(entry), for: block) != nil else { continue }
            if entry != hole, try file.isHole(hostRange(ofBlock: Int(entry))) { hole = entry }
            if entry == hole {
                // The mark that says zero is as good, and needs no place.
                map[block] = Vdi.discarded
            } else {
                try separate(block, &budget)
            }
        }
        if budget.wasExceeded { report(CopyBudget.message) }
        try commit()
    }

    /// Makes the header count all blocks that the map refers to and the file has, as far as it may. Space
    /// that is counted stays so: it may be that of a block which is given up here.
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

    /// Gives a block a place of its own, with the bytes that it shared.
    private mutating func separate(_ block: Int, _ budget: inout CopyBudget) throws(BlockError) {
        guard header.allocatedCount < VdiSurvey.mostBlocks(map), budget.allowsCopy() else { return }
        let index = try takeBlock()
        budget.spend(try copyBlock(Int(map[block]), to: Int(index)))
        map[block] = index
    }

    /// - Returns: how many bytes were read for it.
    @discardableResult
    func copyBlock(_ source: Int, to target: Int) throws(BlockError) -> Int {
        try file.copyInside(hostRange(ofBlock: source), to: header.hostOffset(ofBlock: target))
    }

    private func hostRange(ofBlock index: Int) -> Range<Int> {
        let start = header.hostOffset(ofBlock: index)
        return start..<start + header.blockBytes
    }

    mutating func checkLeaks(
        repair: Bool, _ result: inout CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        let survey = VdiSurvey(map: map, count: header.allocatedCount)
        result.leaks = survey.unusedCount
        guard result.leaks > 0 else { return }
        report(
            "\(repair ? "Repairing" : "Leaked") \(result.leaks) of \(header.allocatedCount) blocks that are"
                + " counted: nothing refers to them")
        guard repair, survey.findingCount == 0 else { return }
        try closeGaps(survey)
        result.leaksFixed = result.leaks
        result.leaks = 0
    }

    /// Moves the last blocks into the places of those that are not used, so that the count is that of the
    /// entries. The order: copies, flush, the map, flush, the count, flush, the length of the file.
    mutating func closeGaps(_ survey: VdiSurvey) throws(BlockError) {
        let count = survey.allocated
        var gap = 0
        for block in 0..<map.count where map[block] < Vdi.discarded && Int(map[block]) >= count {
            guard let place = survey.unused(from: gap) else { break }
            try copyBlock(Int(map[block]), to: place)
            map[block] = UInt32(place)
            gap = place + 1
        }
        // A header that was changed before must not come with a count that is too low.
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
