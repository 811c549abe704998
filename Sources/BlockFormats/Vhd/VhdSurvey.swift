import BlockCore

/// The survey of the whole block table, and of the used parts of the file.
struct VhdSurvey {
    enum Kind {
        /// The block begins inside the image's descriptions or beyond the end of the file.
        case nowhere
        /// The block shares space with an earlier one.
        case shared
        /// The block ends beyond the end of the file or overlaps the footer.
        case cut
    }

    struct Finding {
        var kind: Kind
        var block: Int
    }

    private(set) var findings = Findings<Finding>()
    /// All blocks with a finding of the requested kind.
    private(set) var listed: [UInt32] = []
    private let listedKind: Kind?
    /// The number of entries that refer to a block.
    private(set) var allocated = 0
    /// The number of those entries behind the end of the disk.
    private(set) var beyondDisk = 0
    /// The end of the used part of the file, in bytes.
    private(set) var end = 0
    /// Unused ranges with room for blocks; only the first ones when there are many.
    private(set) var gaps: [Range<Int>] = []
    /// The number of free block places before ``end``.
    private(set) var spareCount = 0
    /// Unused space before the first block.
    private(set) var firstGaps: [Range<Int>] = []
    /// Footer copy, header, block table and locators.
    let metadata: [Range<Int>]

    /// Gaps beyond this number are counted, not kept.
    private static let keptGaps = 4096

    private let header: VhdHeader
    private let limit: Int

    /// - Parameters:
    ///   - limit: the offset of the footer at the end, or the length of the file, in bytes.
    ///   - blocks: the number of blocks of the disk.
    ///   - kind: the kind of findings that ``listed`` collects.
    init(_ table: BlockTable, _ header: VhdHeader, limit: Int, blocks: Int, listing kind: Kind?) {
        self.header = header
        self.limit = limit
        listedKind = kind
        // Locators behind the end of the file are ignored.
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

    /// A block and its start in one number: sorted by the start, then by the block.
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

    /// Walks through the blocks in the order of the file, and classifies each.
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
            // Of several blocks at one place, the first in the table keeps it.
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
            // Gaps between descriptions are kept for descriptions.
            if blocksBegan || isBlock { add(gap: gap) }
        }
        end = max(end, range.upperBound)
    }

    private mutating func add(gap: Range<Int>) {
        let count = header.room(in: gap)
        spareCount += count
        if count > 0, gaps.count < Self.keptGaps { gaps.append(gap) }
    }

    private mutating func add(_ kind: Kind, _ block: UInt32) {
        findings.corruption(Finding(kind: kind, block: Int(block)))
        if kind == listedKind { listed.append(block) }
    }

    /// An offset for `bytes` bytes of descriptions: a gap before the blocks, or the end.
    func place(forDescriptions bytes: Int) -> Int {
        firstGaps.first { $0.count >= bytes }?.lowerBound ?? (end.roundedUp(to: Vhd.sectorBytes) ?? end)
    }
}

extension VhdHeader {
    /// The first offset from `offset` on for a block whose data is aligned.
    func blockPlace(from offset: Int) -> Int {
        let unit = blockBytes >= Vhd.dataAlignment ? Vhd.dataAlignment : Vhd.sectorBytes
        return ((offset + bitmapBytes).roundedUp(to: unit) ?? offset + bitmapBytes) - bitmapBytes
    }

    /// The distance between adjacent blocks, in bytes.
    var blockDistance: Int { blockPlace(from: blockPlace(from: 0) + strideBytes) - blockPlace(from: 0) }

    /// The number of blocks that fit into `gap`.
    func room(in gap: Range<Int>) -> Int {
        let free = gap.upperBound - blockPlace(from: gap.lowerBound)
        return free < strideBytes ? 0 : (free - strideBytes) / blockDistance + 1
    }
}
