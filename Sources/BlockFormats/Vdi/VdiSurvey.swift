import BlockCore

/// The survey of a whole block map.
struct VdiSurvey {
    enum Finding: Equatable {
        /// The header counts more blocks than an image of this size can have.
        case absurdCount
        /// The entry refers to a block that the header does not count.
        case beyondCount(block: Int)
        /// The entry refers to a block that an earlier entry refers to.
        case shared(block: Int)

        /// Whether the repair changes the header's count.
        var concernsCount: Bool { if case .shared = self { false } else { true } }
    }

    private(set) var findings = Findings<Finding>()
    /// Whether the header's count is too high or too low.
    private(set) var countIsWrong = false
    /// The number of entries that refer to a block.
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

    /// A survey in which no block is used yet.
    init(ofEmpty map: BlockTable, count: Int) {
        used = UnitBitmap(0..<min(count, Self.mostBlocks(map)))
    }

    /// The largest valid count of blocks. Leaks may raise the count above that of the disk, but not by much.
    static func mostBlocks(_ map: BlockTable) -> Int { map.count * 2 + 64 }

    /// Marks a block of the data area as used by an entry. Returns a finding if it cannot be.
    mutating func take(_ index: Int, for block: Int) -> Finding? {
        guard used.units.contains(index) else { return .beyondCount(block: block) }
        return used.insert(index) ? nil : .shared(block: block)
    }

    private mutating func add(_ finding: Finding) {
        findings.corruption(finding)
        if finding.concernsCount { countIsWrong = true }
    }

    /// The number of counted blocks without a reference.
    var unusedCount: Int { used.unusedCount }

    /// The first block from `start` on without a reference; `nil` when there is none.
    func unused(from start: Int) -> Int? { used.firstUnused(from: start) }
}

/// Counted blocks that are free: left by a crash, or given back. They are granted first.
struct SpareBlocks {
    let survey: VdiSurvey?
    private var cursor = 0
    var returned: [UInt32] = []
    /// Guest blocks that read as zeroes, keyed by the place that was taken for them and given back.
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
