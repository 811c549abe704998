import BlockCore

/// What of an image's file is taken, and by what: a look at the whole block table.
struct VhdSurvey {
    enum Kind {
        /// The block begins where it cannot: in the image's own descriptions, or beyond the end of the file.
        case nowhere
        /// The block shares space with an earlier one.
        case shared
        /// The end of the block is beyond the end of the file, or where the footer is.
        case cut
    }

    struct Finding {
        var kind: Kind
        var block: Int
    }

    private(set) var findings: [Finding] = []
    private(set) var findingCount = 0
    /// All blocks of which there is a finding of the kind that was asked for.
    private(set) var listed: [UInt32] = []
    private let listedKind: Kind?
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
    ///   - kind: of which findings ``listed`` has all blocks.
    init(_ table: BlockTable, _ header: VhdHeader, limit: Int, blocks: Int, listing kind: Kind?) {
        self.header = header
        self.limit = limit
        listedKind = kind
        // Names that a locator wants behind the end are nowhere.
        metadata = Self.metadata(of: header).filter { $0.lowerBound < limit }
        var places: [Place] = []
        places.reserveCapacity(table.entries.reduce(0) { $0 + ($1 == Vhd.unallocated ? 0 : 1) })
        for (block, entry) in table.entries.enumerated() where entry != Vhd.unallocated {
            allocated += 1
            if block >= blocks { beyondDisk += 1 }
            if isNowhere(entry) {
                add(.nowhere, UInt32(truncatingIfNeeded: block))
            } else {
                places.append(Place(of: block, at: entry))
            }
        }
        places.sort()
        walk(places)
        findings.sort { $0.block < $1.block }
    }

    /// A block and where it begins, in one number: sorted by that, then by the block.
    private struct Place: Comparable {
        private var number: UInt64

        init(of block: Int, at entry: UInt32) {
            number = UInt64(entry) << 32 | UInt64(UInt32(truncatingIfNeeded: block))
        }

        var start: Int { Int(number >> 32) * Vhd.sectorBytes }
        var block: UInt32 { UInt32(truncatingIfNeeded: number) }

        static func < (left: Place, right: Place) -> Bool { left.number < right.number }
    }

    private func isNowhere(_ place: UInt32) -> Bool {
        let start = Int(place) * Vhd.sectorBytes
        return start >= limit || metadata.contains { $0.contains(start) }
    }

    static func metadata(of header: VhdHeader) -> [Range<Int>] {
        let ranges = [0..<Vhd.footerBytes, header.range, header.tableRange] + header.locators.map(\.range)
        return ranges.filter { !$0.isEmpty }.sorted { $0.lowerBound < $1.lowerBound }
    }

    /// Goes through the file from its start to its end, and judges each block.
    private mutating func walk(_ places: [Place]) {
        var described = metadata[...]
        var blocksBegan = false
        func passDescriptions(upTo start: Int) {
            while let range = described.first, range.lowerBound <= start {
                pass(range, isBlock: false, blocksBegan: blocksBegan)
                described = described.dropFirst()
            }
        }
        for place in places {
            let range = place.start..<place.start + header.strideBytes
            passDescriptions(upTo: range.lowerBound)
            // Of blocks at the same place, the first in the table keeps it.
            if range.lowerBound < end || metadata.contains(where: { $0.overlaps(range) }) {
                add(.shared, place.block)
            } else if range.upperBound > limit {
                add(.cut, place.block)
            }
            pass(range, isBlock: true, blocksBegan: blocksBegan)
            blocksBegan = true
        }
        passDescriptions(upTo: Int.max)
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

    private mutating func add(_ kind: Kind, _ block: UInt32) {
        findingCount += 1
        if kind == listedKind { listed.append(block) }
        if findings.count < Self.kept { findings.append(Finding(kind: kind, block: Int(block))) }
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
