import BlockCore

/// What a look at a whole block map finds.
struct VdiSurvey {
    enum Finding: Equatable {
        /// The header counts more blocks than an image of this size can have.
        case absurdCount
        /// The entry refers to a block that the header does not count.
        case beyondCount(block: Int)
        /// The entry refers to a block that an earlier entry refers to.
        case shared(block: Int)

        /// Whether the header's count has to change for it.
        var concernsCount: Bool { if case .shared = self { false } else { true } }
    }

    private(set) var findings: [Finding] = []
    /// Findings beyond this number are counted, not kept.
    private static let keptFindings = 4096
    private(set) var findingCount = 0
    /// Entries that refer to a block.
    private(set) var allocated = 0
    /// How many blocks of the data area were looked at.
    let counted: Int
    /// One bit for each of them that an entry refers to.
    private var used: [UInt64]

    init(map: BlockTable, count: Int) {
        // Leaks may make it more than the disk has, but not by much.
        let most = map.count * 2 + 64
        counted = min(count, most)
        used = [UInt64](repeating: 0, count: counted / 64 + 1)
        if count > most { add(.absurdCount) }
        for block in 0..<map.count where map[block] < Vdi.discarded { look(at: block, Int(map[block])) }
    }

    private mutating func look(at block: Int, _ index: Int) {
        allocated += 1
        guard index < counted else { return add(.beyondCount(block: block)) }
        let bit: UInt64 = 1 << UInt64(index % 64)
        if used[index / 64] & bit != 0 { add(.shared(block: block)) }
        used[index / 64] |= bit
    }

    private mutating func add(_ finding: Finding) {
        findingCount += 1
        if findings.count < Self.keptFindings { findings.append(finding) }
    }

    /// How many blocks are counted that nothing refers to.
    var unusedCount: Int { counted - used.reduce(0) { $0 + $1.nonzeroBitCount } }

    /// The first block from `start` on that nothing refers to; `nil` when there is none.
    func unused(from start: Int) -> Int? {
        var index = start
        while index < counted {
            let word = used[index / 64] | ((1 << UInt64(index % 64)) &- 1)
            if word != .max {
                let found = index / 64 * 64 + (~word).trailingZeroBitCount
                return found < counted ? found : nil
            }
            index = (index / 64 + 1) * 64
        }
        return nil
    }
}

/// Blocks that are counted and free: left over by a crash, or given back. Filled again first.
struct SpareBlocks {
    let survey: VdiSurvey?
    private var cursor = 0
    var returned: [UInt32] = []

    init(survey: VdiSurvey?) { self.survey = survey }

    mutating func take() -> UInt32? {
        if let index = returned.popLast() { return index }
        guard let index = survey?.unused(from: cursor) else { return nil }
        cursor = index + 1
        return UInt32(index)
    }
}
