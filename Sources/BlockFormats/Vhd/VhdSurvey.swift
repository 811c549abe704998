import BlockCore

/// What of an image's file is taken, and by what: a look at the whole block table.
struct VhdSurvey {
    enum Finding: Equatable {
        /// The block begins where it cannot: in the image's own descriptions, or beyond the end of the file.
        case nowhere(block: Int)
        /// The block shares space with an earlier one.
        case shared(block: Int)
        /// The end of the block is beyond the end of the file, or where the footer is.
        case cut(block: Int)
    }

    private(set) var findings: [Finding] = []
    private(set) var findingCount = 0
    /// Entries that refer to a block.
    private(set) var allocated = 0
    /// Those of them behind the end of the disk.
    private(set) var beyondDisk = 0
    /// Where the last thing in the file ends, in bytes.
    private(set) var end = 0
    /// Unused space between two things, in which there is room for blocks; not all where there are many.
    private(set) var gaps: [Range<Int>] = []
    /// How many blocks there is room for before ``end``.
    private(set) var spareCount = 0
    /// Unused space before the first block.
    private(set) var firstGaps: [Range<Int>] = []
    /// Footer copy, header, block table and locators.
    let metadata: [Range<Int>]

    /// Findings and gaps beyond this number are counted, not kept.
    private static let kept = 4096

    private let header: VhdHeader
    private let limit: Int

    /// - Parameters:
    ///   - limit: where the footer at the end is, or the file ends, in bytes.
    ///   - blocks: how many the disk has.
    init(_ table: BlockTable, _ header: VhdHeader, limit: Int, blocks: Int) {
        self.header = header
        self.limit = limit
        // Names that a locator wants behind the end are nowhere.
        metadata = Self.metadata(of: header).filter { $0.lowerBound < limit }
        var places: [UInt32] = []
        places.reserveCapacity(table.entries.reduce(0) { $0 + ($1 == Vhd.unallocated ? 0 : 1) })
        for entry in table.entries where entry != Vhd.unallocated {
            allocated += 1
            if !isNowhere(entry) { places.append(entry) }
        }
        places.sort()
        for block in blocks..<max(blocks, table.count) where table[block] != Vhd.unallocated {
            beyondDisk += 1
        }
        let clashes = walk(places)
        judge(table, clashes)
    }

    private func isNowhere(_ place: UInt32) -> Bool {
        let start = Int(place) * Vhd.sectorBytes
        return start >= limit || metadata.contains { $0.contains(start) }
    }

    static func metadata(of header: VhdHeader) -> [Range<Int>] {
        let ranges = [0..<Vhd.footerBytes, header.range, header.tableRange] + header.locators.map(\.range)
        return ranges.filter { !$0.isEmpty }.sorted { $0.lowerBound < $1.lowerBound }
    }

    /// Where blocks begin that lie over something that begins earlier, and where more than one begins.
    private struct Clashes {
        var over: Set<UInt32> = []
        var twice: Set<UInt32> = []
    }

    /// Goes through the file from its start to its end.
    private mutating func walk(_ places: [UInt32]) -> Clashes {
        var clashes = Clashes()
        var described = metadata[...]
        var last: UInt32?
        func passDescriptions(upTo start: Int) {
            while let range = described.first, range.lowerBound <= start {
                if let last, Int(last) * Vhd.sectorBytes + header.strideBytes > range.lowerBound {
                    clashes.over.insert(last)
                }
                pass(range, isBlock: false, blocksBegan: last != nil)
                described = described.dropFirst()
            }
        }
        for place in places {
            let start = Int(place) * Vhd.sectorBytes
            passDescriptions(upTo: start)
            if place == last, clashes.twice.count < Self.kept {
                clashes.twice.insert(place)
            } else if start < end, clashes.over.count < Self.kept {
                clashes.over.insert(place)
            }
            pass(start..<start + header.strideBytes, isBlock: true, blocksBegan: last != nil)
            last = place
        }
        passDescriptions(upTo: Int.max)
        return clashes
    }

    private mutating func pass(_ range: Range<Int>, isBlock: Bool, blocksBegan: Bool) {
        if range.lowerBound > end {
            let gap = end..<range.lowerBound
            if !blocksBegan { firstGaps.append(gap) }
            // Between descriptions there is room for more of them, not for blocks.
            if blocksBegan || isBlock { add(gap: gap) }
        }
        end = max(end, range.upperBound)
    }

    private mutating func add(gap: Range<Int>) {
        let count = header.room(in: gap)
        spareCount += count
        if count > 0, gaps.count < Self.kept { gaps.append(gap) }
    }

    private mutating func judge(_ table: BlockTable, _ clashes: Clashes) {
        var seen: Set<UInt32> = []
        for block in 0..<table.count where table[block] != Vhd.unallocated {
            let place = table[block]
            let start = Int(place) * Vhd.sectorBytes
            if isNowhere(place) {
                add(.nowhere(block: block))
            } else if clashes.over.contains(place)
                || clashes.twice.contains(place) && !seen.insert(place).inserted
            {
                add(.shared(block: block))
            } else if start + header.strideBytes > limit {
                add(.cut(block: block))
            }
        }
    }

    private mutating func add(_ finding: Finding) {
        findingCount += 1
        if findings.count < Self.kept { findings.append(finding) }
    }

    /// Where `bytes` of descriptions can go: a gap before the blocks, or the end.
    func place(forDescriptions bytes: Int) -> Int {
        firstGaps.first { $0.count >= bytes }?.lowerBound ?? (end.roundedUp(to: Vhd.sectorBytes) ?? end)
    }
}

extension VhdHeader {
    /// The first place from `offset` on for a block: such that its data is aligned.
    func blockPlace(from offset: Int) -> Int {
        let unit = blockBytes >= Vhd.dataAlignment ? Vhd.dataAlignment : Vhd.sectorBytes
        return ((offset + bitmapBytes).roundedUp(to: unit) ?? offset + bitmapBytes) - bitmapBytes
    }

    /// From one block to the next, in bytes.
    var blockDistance: Int { blockPlace(from: blockPlace(from: 0) + strideBytes) - blockPlace(from: 0) }

    /// How many blocks fit into `gap`.
    func room(in gap: Range<Int>) -> Int {
        let free = gap.upperBound - blockPlace(from: gap.lowerBound)
        return free < strideBytes ? 0 : (free - strideBytes) / blockDistance + 1
    }
}
