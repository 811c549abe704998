import BlockCore

/// What a look at all entries of the BAT finds, and which parts of the file are taken.
struct VhdxSurvey {
    enum Finding: Equatable {
        /// The entry has a state that there is not, or not in such an image.
        case invalid(block: Int)
        /// Nothing of the block is in the file.
        case outside(block: Int)
        /// The file ends within the block.
        case cutOff(block: Int)
        /// The block's place is something else's too.
        case shared(block: Int)
        /// A block is stored in part, and no sector bitmap tells which.
        case withoutBitmap(block: Int)
    }

    private(set) var findings: [Finding] = []
    /// Findings beyond this number are counted, not kept.
    private static let keptFindings = 4096
    private(set) var findingCount = 0
    private(set) var space = VhdxSpace()
    private var fileBytes: Int

    /// - Throws: what reading throws; `limit` for a file that is too large to be looked through.
    init(_ state: inout VhdxState) throws(BlockError) {
        fileBytes = try state.view.length()
        guard fileBytes <= Vhdx.Limit.fileBytes else {
            throw BlockError(.limit, "The file is too large (\(fileBytes) bytes)")
        }
        space.take(0..<Vhdx.unitBytes)
        let log = state.headers.current.logRange
        for range in [log] + state.regions.all.map(\.range) where !range.isEmpty { space.take(range) }
        try look(&state)
    }

    private mutating func look(_ state: inout VhdxState) throws(BlockError) {
        let geometry = state.geometry
        var reserved: [Range<Int>] = []
        for first in stride(from: 0, to: geometry.entryCount, by: VhdxTable.entriesPerPage) {
            let page = try state.table.page(first / VhdxTable.entriesPerPage, state.view)
            for index in first..<min(first + VhdxTable.entriesPerPage, geometry.entryCount)
            where page[index % VhdxTable.entriesPerPage] != 0 {
                let entry = page[index % VhdxTable.entriesPerPage]
                guard let block = geometry.block(ofEntry: index) else {
                    takeBitmap(entry, geometry)
                    continue
                }
                guard block < geometry.blockCount else { continue }
                if let kept = look(at: block, entry, geometry), reserved.count < Self.keptFindings {
                    reserved.append(kept)
                }
            }
        }
        // Places that blocks without data may come back to: nothing else goes there.
        for range in reserved where space.isFree(range) { space.take(range) }
        try lookAtPartial(&state)
    }

    /// - Returns: a place that a block without data reserves.
    private mutating func look(at block: Int, _ entry: UInt64, _ geometry: VhdxGeometry) -> Range<Int>? {
        let offset = Vhdx.offset(of: entry)
        switch Vhdx.state(of: entry) {
        case .fullyPresent: break
        case .partiallyPresent where geometry.hasParent: break
        case .partiallyPresent, nil:
            add(.invalid(block: block))
            return nil
        case .undefined, .unmapped:
            guard let offset, offset >= Vhdx.unitBytes, offset + geometry.blockBytes <= fileBytes else {
                return nil
            }
            return offset..<offset + geometry.blockBytes
        default: return nil
        }
        guard let offset, offset >= Vhdx.unitBytes, offset < fileBytes else {
            add(.outside(block: block))
            return nil
        }
        if offset + geometry.bytes(ofBlock: block) > fileBytes { add(.cutOff(block: block)) }
        let range = offset..<offset + geometry.blockBytes
        if space.isFree(range) { space.take(range) } else { add(.shared(block: block)) }
        return nil
    }

    private mutating func takeBitmap(_ entry: UInt64, _ geometry: VhdxGeometry) {
        guard geometry.hasParent, entry & Vhdx.stateMask == Vhdx.bitmapPresent,
            let offset = Vhdx.offset(of: entry), offset + Vhdx.unitBytes <= fileBytes
        else { return }
        let range = offset..<offset + Vhdx.unitBytes
        if space.isFree(range) { space.take(range) } else { sharedBitmaps.insert(offset) }
    }

    /// Sector bitmaps that lie over something else.
    private var sharedBitmaps: Set<Int> = []

    /// Blocks that are stored in part need a sector bitmap.
    private mutating func lookAtPartial(_ state: inout VhdxState) throws(BlockError) {
        let geometry = state.geometry
        guard geometry.hasParent else { return }
        for block in 0..<geometry.blockCount {
            let entry = try state.entry(ofBlock: block)
            guard Vhdx.state(of: entry) == .partiallyPresent else { continue }
            let bitmap = try state.table.entry(geometry.bitmapIndex(forBlock: block), state.view)
            guard bitmap & Vhdx.stateMask == Vhdx.bitmapPresent, let offset = Vhdx.offset(of: bitmap),
                offset >= Vhdx.unitBytes, offset + Vhdx.unitBytes <= fileBytes,
                !sharedBitmaps.contains(offset)
            else {
                add(.withoutBitmap(block: block))
                continue
            }
        }
    }

    private mutating func add(_ finding: Finding) {
        findingCount += 1
        if findings.count < Self.keptFindings { findings.append(finding) }
    }
}
