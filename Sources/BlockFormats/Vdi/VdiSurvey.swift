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

    private(set) var findings = Findings<Finding>(keeping: 4096)
    /// Whether the header counts too much or too little.
    private(set) var countIsWrong = false
    /// Entries that refer to a block.
    private(set) var allocated = 0
    /// The blocks of the data area that entries refer to.
    private var used: UnitBitmap

    init(map: BlockTable, count: Int) {
        self.init(ofEmpty: map, count: count)
        if count > Self.mostBlocks(map) { add(.absurdCount) }
        for block in 0..<map.count where map[block] < Vdi.discarded {
            allocated += 1
            if let finding = take(Int(map[block]), for: block) { add(finding) }
        }
    }

    /// A survey that begins with nothing taken.
    init(ofEmpty map: BlockTable, count: Int) {
        used = UnitBitmap(0..<min(count, Self.mostBlocks(map)))
    }

    /// How many blocks an image may count. Leaks may make it more than the disk has, but not by much.
    static func mostBlocks(_ map: BlockTable) -> Int { map.count * 2 + 64 }

    /// Takes a block of the data area for an entry; answers what is wrong with that.
    mutating func take(_ index: Int, for block: Int) -> Finding? {
        guard used.units.contains(index) else { return .beyondCount(block: block) }
        return used.insert(index) ? nil : .shared(block: block)
    }

    private mutating func add(_ finding: Finding) {
        findings.corruption(finding)
        if finding.concernsCount { countIsWrong = true }
    }

    /// How many findings there are.
    var findingCount: Int { findings.count }
    /// How many blocks are counted that nothing refers to.
    var unusedCount: Int { used.unusedCount }

    /// The first block from `start` on that nothing refers to; `nil` when there is none.
    func unused(from start: Int) -> Int? { used.firstUnused(from: start) }
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
