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
    /// Whether the header counts too much or too little.
    private(set) var countIsWrong = false
    /// Entries that refer to a block.
    private(set) var allocated = 0
    /// How many blocks of the data area were looked at.
    let counted: Int
    /// One bit for each of them that an entry refers to.
    private var used: [UInt64]

    init(map: BlockTable, count: Int) {
        let most = Self.mostBlocks(map)
        counted = min(count, most)
        used = [UInt64](repeating: 0, count: counted / 64 + 1)
        if count > most { add(.absurdCount) }
        for block in 0..<map.count where map[block] < Vdi.discarded { look(at: block, Int(map[block])) }
    }

    /// How many blocks an image may count. Leaks may make it more than the disk has, but not by much.
    static func mostBlocks(_ map: BlockTable) -> Int { map.count * 2 + 64 }

    private mutating func look(at block: Int, _ index: Int) {
        allocated += 1
        if let finding = take(index, for: block) { add(finding) }
    }

    /// Takes a block of the data area for an entry; answers what is wrong with that.
    mutating func take(_ index: Int, for block: Int) -> Finding? {
        guard index < counted else { return .beyondCount(block: block) }
        let bit: UInt64 = 1 << UInt64(index % 64)
        defer { used[index / 64] |= bit }
        return used[index / 64] & bit == 0 ? nil : .shared(block: block)
    }

    /// A survey that begins with nothing taken.
    init(ofEmpty map: BlockTable, count: Int) {
        counted = min(count, Self.mostBlocks(map))
        used = [UInt64](repeating: 0, count: counted / 64 + 1)
    }

    private mutating func add(_ finding: Finding) {
        findingCount += 1
        if finding.concernsCount { countIsWrong = true }
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
    /// Blocks of the disk that read as zeroes, by what was taken for them and given back.
    var zeroBlocks: [UInt32: Int] = [:]
    /// Whether the file may be longer than its blocks need.
    var isTooLong = false

    init(survey: VdiSurvey?) { self.survey = survey }

    mutating func take() -> UInt32? {
        if let index = returned.popLast() { return index }
        guard let index = survey?.unused(from: cursor) else { return nil }
        cursor = index + 1
        return UInt32(index)
    }
}
