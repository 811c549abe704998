import BlockCore

/// Descriptions, block table and bitmaps of an open dynamic or differencing image.
///
/// Not thread-safe: the session's lock guards it, as a part of ``VhdImage``. The order of writes:
///
/// 1. The footer, when the file grows: it is written to the new end before blocks overwrite the old one, so
///    that the file always ends with a footer. A flush, under the lock; it is rare, because the file grows by
///    many blocks each time.
/// 2. Data; a flush.
/// 3. Bitmaps, which mark the stored sectors of a differencing disk; a flush.
/// 4. The table; a flush.
///
/// After a crash at any point the worst result is space without a reference, which the next session uses.
struct VhdState: BlockMoving {
    let file: BlockNode
    var footer: VhdFooter
    var header: VhdHeader
    var table: BlockTable
    let bitmaps: TableCache
    var isReadOnly: Bool
    /// The damages of footers and header, found on opening.
    var damages: [String]
    var isCopyStale: Bool
    /// The offset of the footer at the end, in bytes; blocks end before it. `nil` when it is damaged.
    var footerOffset: Int?
    /// The start of the free space for blocks, which ends at the footer, in bytes.
    var nextFree = 0
    /// Free places between blocks.
    var spare = VhdSpareBlocks()
    /// Whether a failed write left header or footers in the file undefined.
    var headerIsDirty = false
    var footersAreDirty = false
    /// Whether the file is longer than its blocks need.
    var hasReserve = false
    var allocatedCount = 0
    var writes: TableWrites?
    /// The choice between the two stored sizes; `nil` for the footer's own rule.
    let sizeRule: VhdFooter.SizeRule?

    private static let cacheBytes = 2 << 20
    /// The largest growth of the file, in blocks.
    private static let reservedBlocks = 32

    init(
        file: BlockNode, layout: VhdLayout, header: VhdHeader, sizeBy sizeRule: VhdFooter.SizeRule?,
        isReadOnly: Bool
    ) throws(BlockError) {
        self.file = file
        self.sizeRule = sizeRule
        self.header = header
        self.isReadOnly = isReadOnly
        footer = layout.footer
        footerOffset = layout.footerOffset
        damages = layout.damages
        isCopyStale = layout.isCopyStale
        table = try BlockTable(
            reading: file, at: header.tableOffset, count: header.blocks, isBigEndian: true)
        bitmaps = TableCache(
            file: file, sliceSize: header.bitmapBytes, budgetBytes: Self.cacheBytes, loadEvent: .l2Load)
    }

    var isDifferencing: Bool { footer.type == .differencing }
    /// The footer's size was validated when the image was opened.
    var virtualSize: Int { (try? footer.virtualSize(by: sizeRule)) ?? 0 }

    /// The number of blocks of a disk of `size` bytes.
    func blocks(of size: Int) -> Int { size / header.blockBytes + (size % header.blockBytes == 0 ? 0 : 1) }

    /// - Parameter kind: the kind of findings whose blocks are all listed.
    func survey(listing kind: VhdSurvey.Kind? = nil) throws(BlockError) -> VhdSurvey {
        let blocks = blocks(of: try footer.virtualSize())
        var limit = footerOffset ?? 0
        if footerOffset == nil { limit = try file.length() }
        return VhdSurvey(table, header, limit: limit, blocks: min(blocks, table.count), listing: kind)
    }

    /// Surveys the table before the first change, and repairs footers.
    ///
    /// - Throws: `corrupt` when table or header are damaged: with a wrong table offset or block size, writing
    ///   would destroy data.
    mutating func prepareForWriting() throws(BlockError) {
        guard header.isIntact else {
            throw BlockError(
                .corrupt,
                "The checksum of the VHD image's header is wrong; it can be read, and repaired with "
                    + "'check -r all'")
        }
        let survey = try survey()
        guard survey.findings.count == 0 else {
            throw BlockError(
                .corrupt,
                "The image's block table is damaged; it can be read, and repaired with "
                    + "'check -r all'")
        }
        adopt(survey)
        if footerOffset == nil || isCopyStale || !damages.isEmpty { try repairFooters() }
    }

    mutating func adopt(_ survey: VhdSurvey) {
        nextFree = survey.end.roundedUp(to: Vhd.sectorBytes) ?? survey.end
        spare = VhdSpareBlocks(gaps: survey.gaps)
        allocatedCount = survey.allocated
    }

    /// - Throws: `limit` for a table that refers to the same blocks, and so to the same bitmaps, too often.
    func checkRepeats() throws(BlockError) {
        guard isDifferencing else { return }
        var repeats = TableRepeats(capacity: table.count)
        for block in 0..<table.count where table[block] != Vhd.unallocated {
            repeats.note(UInt64(table[block]))
        }
        try repeats.check(entriesPerTable: header.blockBytes / Vhd.sectorBytes, path: file.filename)
    }

    // MARK: Blocks

    /// Takes space for a block. It has no entry until it is linked.
    mutating func takePlace() throws(BlockError) -> Int {
        if let place = spare.take(header) { return place }
        let place = header.blockPlace(from: nextFree)
        guard place <= Vhd.Limit.blockOffset else {
            throw BlockError(.noSpace, "The VHD image cannot become any larger")
        }
        let end = place + header.strideBytes
        if end > footerOffset ?? 0 {
            let reserve = min(allocatedCount / 8, Self.reservedBlocks) * header.blockDistance
            try moveFooter(to: end + reserve)
            hasReserve = hasReserve || reserve > 0
        }
        nextFree = end
        return place
    }

    /// Takes space for a block, and allocates the space of its bitmap and its entry.
    ///
    /// - Returns: the offset of its bitmap, in bytes.
    /// - Throws: `noSpace`, `io`; nothing is taken then.
    mutating func take(_ block: Int) throws(BlockError) -> Int {
        let place = try takePlace()
        do throws(BlockError) { try reserve(block, at: place) } catch {
            giveBack(place, for: block)
            throw error
        }
        return place
    }

    var blockCount: Int { table.count }

    func hostOffset(ofEntry entry: UInt32) -> Int { Int(entry) * Vhd.sectorBytes }

    /// The block with its bitmap.
    func hostRange(ofBlock block: Int) -> Range<Int>? {
        place(of: block).map { $0..<$0 + header.strideBytes }
    }

    mutating func takeBlock() throws(BlockError) -> UInt32 { UInt32(try takePlace() / Vhd.sectorBytes) }

    /// Does nothing: the next session takes the place.
    mutating func giveBack(_ entry: UInt32, of block: Int) {}

    mutating func relink(_ block: Int, to entry: UInt32) {
        for place in [place(of: block) ?? 0, hostOffset(ofEntry: entry)] {
            bitmaps.discard(place..<place + 1)
        }
        table[block] = entry
    }

    /// Moves the footer to a larger offset; the file always ends with a footer.
    mutating func moveFooter(to offset: Int) throws(BlockError) {
        try file.write(footer.sealed().span.bytes, at: offset)
        try file.flush()
        footerOffset = offset
    }

    /// Cuts the free space behind the last block. After a failure the file stays longer.
    mutating func trim() {
        guard let offset = footerOffset, offset > nextFree, !footersAreDirty else { return }
        do throws(BlockError) {
            do throws(BlockError) {
                try file.write(footer.sealed().span.bytes, at: nextFree)
            } catch {
                // On a full disk, a hole in the space that is cut makes room for the footer.
                try file.writeZeroes(at: nextFree, count: offset - nextFree)
                try file.write(footer.sealed().span.bytes, at: nextFree)
            }
            try file.flush()
            try file.resize(to: nextFree + Vhd.footerBytes)
            footerOffset = nextFree
            hasReserve = false
            try file.flush()
        } catch {}
    }

    /// Gives back a place that never had an entry.
    mutating func giveBack(_ place: Int, for block: Int) {
        bitmaps.discard(place..<place + header.bitmapBytes)
        spare.giveBack(place, for: block)
        while spare.takeLast(endingAt: nextFree, header) {
            nextFree -= header.strideBytes
            hasReserve = true
        }
    }

    /// Links free places, as holes, to unallocated blocks of a disk without a parent. The next session uses
    /// the rest.
    mutating func fillGaps() throws(BlockError) {
        guard !isDifferencing else { return }
        for (place, block) in spare.takeReturned() where self.place(of: block) == nil {
            try file.writeZeroes(at: place + header.bitmapBytes, count: header.blockBytes)
            try reserve(block, at: place)
            try link(block, to: place, 0..<header.blockBytes / Vhd.sectorBytes)
        }
    }

    /// Allocates the space of a block's bitmap and of its entry in the file.
    mutating func reserve(_ block: Int, at place: Int) throws(BlockError) {
        try makeRoom()
        try bitmaps.reserve(try bitmaps.slot(at: place, load: false))
        try table.reserve(block, in: file)
    }

    // MARK: Bitmaps

    /// The run of equal bits at the start of `sectors`.
    func sectorRun(at place: Int, _ sectors: Range<Int>) throws(BlockError) -> (isSet: Bool, end: Int) {
        let bits = bitmaps.bytes(of: try bitmaps.slot(at: place))
        return Self.run(bits.bytes, sectors.lowerBound, sectors.upperBound)
    }

    private static func run(_ bits: RawSpan, _ first: Int, _ end: Int) -> (isSet: Bool, end: Int) {
        func word(_ bit: Int) -> UInt64 { bits.bigEndian(at: bit / 64 * 8) ?? 0 }
        let isSet = (word(first) << UInt64(first % 64)) >> 63 == 1
        var bit = first
        while bit < end {
            let other = (isSet ? ~word(bit) : word(bit)) << UInt64(bit % 64)
            if other != 0 { return (isSet, min(end, bit + other.leadingZeroBitCount)) }
            bit = (bit / 64 + 1) * 64
        }
        return (isSet, end)
    }

    /// Allocates the space of the bitmap sectors that ``mark(_:_:)`` will change.
    ///
    /// - Returns: whether all of the sectors are marked already.
    mutating func reserveMark(_ place: Int, _ sectors: Range<Int>) throws(BlockError) -> Bool {
        try makeRoom()
        let run = try sectorRun(at: place, sectors)
        if run.isSet && run.end == sectors.upperBound { return true }
        try bitmaps.reserve(try bitmaps.slot(at: place))
        return false
    }

    /// Marks sectors of a stored block as stored; all of them in a disk without a parent.
    mutating func mark(_ place: Int, _ sectors: Range<Int>) throws(BlockError) {
        if try reserveMark(place, sectors) { return }
        let slot = try bitmaps.slot(at: place)
        set(isDifferencing ? sectors : 0..<header.blockBytes / Vhd.sectorBytes, in: slot)
    }

    /// Links a block with written data.
    mutating func link(_ block: Int, to place: Int, _ sectors: Range<Int>) throws(BlockError) {
        try makeRoom()
        let slot = try bitmaps.slot(at: place, load: false)
        var bits = bitmaps.bytes(of: slot).mutableBytes
        bits.fill(isDifferencing ? 0 : 0xFF)
        bitmaps.markDirty(slot, 0..<header.bitmapBytes)
        if isDifferencing { set(sectors, in: slot) }
        table[block] = UInt32(place / Vhd.sectorBytes)
        allocatedCount += 1
    }

    private mutating func makeRoom() throws(BlockError) {
        if bitmaps.isCrowdedByDirty { try commit() }
    }

    private func set(_ sectors: Range<Int>, in slot: Int) {
        let buffer = bitmaps.bytes(of: slot)
        var bits = buffer.mutableBytes
        var sector = sectors.lowerBound
        while sector < sectors.upperBound {
            let byte = sector / 8
            let stop = min((byte + 1) * 8, sectors.upperBound)
            let mask = UInt8(truncatingIfNeeded: 0xFF >> (sector % 8) & ~(0xFF >> (stop - byte * 8)))
            let old: UInt8 = buffer.bytes.bigEndian(at: byte) ?? 0
            bits.storeBigEndian(old | mask, at: byte)
            sector = stop
        }
        bitmaps.markDirty(slot, sectors.lowerBound / 8..<(sectors.upperBound + 7) / 8)
    }

    // MARK: Writing back

    var hasChanges: Bool { headerIsDirty || footersAreDirty || bitmaps.hasDirty || table.isDirty }

    /// Makes all changes durable, in the order above.
    mutating func commit() throws(BlockError) {
        try finishWrites()
        if headerIsDirty { try writeHeader() }
        if footersAreDirty { try writeFooters() }
        try file.flush()
        if bitmaps.hasDirty {
            try bitmaps.writeBack()
            try file.flush()
        }
        guard table.isDirty else { return }
        try table.write(to: file)
        try file.flush()
    }

    /// In the same order as ``commit()``.
    mutating func takeChanges() throws(BlockError) -> TableWrites? {
        if headerIsDirty { try writeHeader() }
        if footersAreDirty { try writeFooters() }
        let steps = [
            TableWrites.Step(parts: bitmaps.takeChanges()), TableWrites.Step(parts: table.takeChanges()),
        ]
        let writes = TableWrites(steps, to: file)
        bitmaps.hold(for: writes)
        return writes
    }

    mutating func settle(failed: Bool) {
        bitmaps.settle(failed: failed)
        table.settle(failed: failed)
    }

    /// Writes all changes, and cuts unused space off the end of the file.
    mutating func finish() throws(BlockError) {
        if isReadOnly { return }
        try? fillGaps()
        if hasChanges { try commit() }
        if hasReserve { trim() }
    }

    /// Writes the header's first sector, which holds all fields that change in place. Durable on return.
    mutating func writeHeader() throws(BlockError) {
        headerIsDirty = true
        let bytes = Array(header.sealed().prefix(Vhd.sectorBytes))
        try file.write(bytes.span.bytes, at: header.offset)
        try file.flush()
        headerIsDirty = false
    }

    /// Writes both footers, the copy first: the footer at the end defines the image. Durable on return.
    mutating func writeFooters() throws(BlockError) {
        footersAreDirty = true
        let bytes = footer.sealed()
        try file.write(bytes.span.bytes, at: 0)
        try file.flush()
        var place = footerOffset ?? 0
        if footerOffset == nil { place = try footerPlace() }
        try moveFooter(to: place)
        footersAreDirty = false
    }

    /// The offset for the footer of a file that ends without one, in bytes.
    private func footerPlace() throws(BlockError) -> Int {
        max(nextFree, max(0, try file.length() - 1).roundedDown(to: Vhd.sectorBytes))
    }

    mutating func repairFooters() throws(BlockError) {
        try writeFooters()
        damages = []
        isCopyStale = false
    }
}
