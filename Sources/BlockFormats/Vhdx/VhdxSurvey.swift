import BlockCore

/// The survey of the whole BAT, and of the taken parts of the file.
struct VhdxSurvey {
    enum Finding: Equatable {
        /// The entry has an invalid state, or one that this type of image must not have.
        case invalid(block: Int)
        /// The block lies wholly behind the end of the file.
        case outside(block: Int)
        /// The file ends within the block.
        case cutOff(block: Int)
        /// The block's place overlaps something else.
        case shared(block: Int)
        /// The block is stored in part, without a usable sector bitmap.
        case withoutBitmap(block: Int)

        /// Whether the repair drops the data that the entry referred to.
        var isLoss: Bool {
            switch self {
            case .invalid, .outside: true
            case .cutOff, .shared, .withoutBitmap: false
            }
        }
    }

    private(set) var findings = Findings<Finding>()
    /// The largest number of reserved places that are kept free.
    private static let keptPlaces = 4096
    private(set) var space = VhdxSpace()
    private var fileBytes: Int

    /// Repairs a finding during the survey: ``VhdxState/space`` already covers the places of all entries.
    typealias Repairing = (inout VhdxState, Finding) throws(BlockError) -> Void

    /// - Throws: `io`, and the errors of the repair; `limit` for a file with too many blocks.
    init(_ state: inout VhdxState, repair: Repairing = { (_, _) in }) throws(BlockError) {
        fileBytes = try state.view.length()
        guard fileBytes <= Vhdx.Limit.fileBytes else {
            throw BlockError(.limit, "The file is too large (\(fileBytes) bytes)")
        }
        space.take(0..<Vhdx.unitBytes)
        let log = state.headers.current.logRange
        for range in [log] + state.regions.all.map(\.range) where !range.isEmpty { space.take(range) }
        try look(&state, repair)
    }

    private mutating func look(_ state: inout VhdxState, _ repair: Repairing) throws(BlockError) {
        let geometry = state.geometry
        var reserved: [Range<Int>] = []
        for first in stride(from: 0, to: geometry.entryCount, by: VhdxTable.entriesPerPage) {
            let page = try state.table.page(first / VhdxTable.entriesPerPage, state.view)
            let count = min(VhdxTable.entriesPerPage, geometry.entryCount - first)
            for inside in 0..<count where page[inside] != 0 && page[inside] != Vhdx.zeroEntry {
                guard let block = geometry.block(ofEntry: first + inside) else {
                    takeBitmap(page[inside], geometry)
                    continue
                }
                guard block < geometry.blockCount else { continue }
                let (found, kept) = look(at: block, page[inside], geometry)
                if let kept, reserved.count < Self.keptPlaces { reserved.append(kept) }
                for finding in found {
                    findings.corruption(finding)
                    try repair(&state, finding)
                }
            }
        }
        // Places reserved for blocks without data are kept free for them.
        for range in reserved where space.isFree(range) { space.take(range) }
        if hasPartialBlocks { try lookAtPartial(&state) }
    }

    /// - Returns: the finding for a block, and the place that a block without data reserves.
    private mutating func look(
        at block: Int, _ entry: UInt64, _ geometry: VhdxGeometry
    ) -> (findings: [Finding], reserved: Range<Int>?) {
        let offset = Vhdx.offset(of: entry)
        switch Vhdx.state(of: entry) {
        case .fullyPresent: break
        case .partiallyPresent where geometry.hasParent: hasPartialBlocks = true
        case .partiallyPresent, nil: return ([.invalid(block: block)], nil)
        case .undefined, .unmapped:
            guard let offset, offset >= Vhdx.unitBytes, offset + geometry.blockBytes <= fileBytes else {
                return ([], nil)
            }
            return ([], offset..<offset + geometry.blockBytes)
        default: return ([], nil)
        }
        guard let offset, offset >= Vhdx.unitBytes, offset < fileBytes else {
            return ([.outside(block: block)], nil)
        }
        var findings: [Finding] = []
        if offset + geometry.bytes(ofBlock: block) > fileBytes { findings.append(.cutOff(block: block)) }
        let range = offset..<offset + geometry.blockBytes
        if space.isFree(range) { space.take(range) } else { findings.append(.shared(block: block)) }
        return (findings, nil)
    }

    private mutating func takeBitmap(_ entry: UInt64, _ geometry: VhdxGeometry) {
        guard geometry.hasParent, entry & Vhdx.stateMask == Vhdx.bitmapPresent,
            let offset = Vhdx.offset(of: entry), offset + Vhdx.unitBytes <= fileBytes
        else { return }
        let range = offset..<offset + Vhdx.unitBytes
        if space.isFree(range) { space.take(range) } else { sharedBitmaps.insert(offset) }
    }

    /// The numbers of sector bitmaps that overlap something else.
    private var sharedBitmaps: Set<Int> = []
    private var hasPartialBlocks = false

    /// Surveys partial blocks, which need a sector bitmap.
    private mutating func lookAtPartial(_ state: inout VhdxState) throws(BlockError) {
        let geometry = state.geometry
        for first in stride(from: 0, to: geometry.entryCount, by: VhdxTable.entriesPerPage) {
            let page = try state.table.page(first / VhdxTable.entriesPerPage, state.view)
            let count = min(VhdxTable.entriesPerPage, geometry.entryCount - first)
            for inside in 0..<count where Vhdx.isPartial(page[inside]) {
                guard let block = geometry.block(ofEntry: first + inside), block < geometry.blockCount else {
                    continue
                }
                let bitmap = try state.table.entry(geometry.bitmapIndex(forBlock: block), state.view)
                if !hasBitmap(bitmap) { findings.corruption(.withoutBitmap(block: block)) }
            }
        }
    }

    private func hasBitmap(_ entry: UInt64) -> Bool {
        guard entry & Vhdx.stateMask == Vhdx.bitmapPresent, let offset = Vhdx.offset(of: entry) else {
            return false
        }
        return offset >= Vhdx.unitBytes && offset + Vhdx.unitBytes <= fileBytes
            && !sharedBitmaps.contains(offset)
    }
}
