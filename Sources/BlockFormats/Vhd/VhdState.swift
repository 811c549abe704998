import BlockCore

/// Descriptions, block table and bitmaps of an open dynamic or differencing image.
///
/// Not thread-safe: the session's lock guards it, as a part of ``VhdImage``. The order of writes:
///
/// 1. The footer, when the file grows: it goes to the new end, before blocks are put over the old one, so
///    that the file ends with a footer at any time. A flush, under the lock: the file grows by many blocks
///    at once.
/// 2. Data; a flush.
/// 3. Bitmaps, which say of a differencing disk's sectors that they are here; a flush.
/// 4. The table; a flush.
///
/// Killed anywhere, the worst is space that nothing refers to, which the next writer takes.
struct VhdState: SessionState {
    let file: BlockNode
    var footer: VhdFooter
    var header: VhdHeader
    var table: BlockTable
    let bitmaps: TableCache
    var isReadOnly: Bool
    /// What was wrong with footers and header when the image was opened.
    var damages: [String]
    var isCopyStale: Bool
    /// Where the footer at the end is, in bytes; blocks end before it. `nil` where it is damaged.
    var footerOffset: Int?
    /// Where there is free space for the next blocks, up to the footer.
    var nextFree = 0
    /// Space between blocks.
    var spare = VhdSpareBlocks()
    /// What the file has of these is not known, after a failure.
    var headerIsDirty = false
    var footersAreDirty = false
    /// Whether the file was made longer than its blocks need.
    var hasReserve = false
    var allocatedCount = 0
    var writes: TableWrites?
    /// By which of its two sizes the disk goes; `nil` for the footer's own rule.
    let sizeRule: VhdFooter.SizeRule?

    private static let cacheBytes = 2 << 20
    /// How many blocks the file grows by at most.
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
    /// Opening the image has found that the footer's size is good.
    var virtualSize: Int { (try? footer.virtualSize(by: sizeRule)) ?? 0 }

    /// How many blocks a disk of `size` bytes has.
    func blocks(of size: Int) -> Int { size / header.blockBytes + (size % header.blockBytes == 0 ? 0 : 1) }

    /// - Parameter kind: of which findings all blocks are told.
    func survey(listing kind: VhdSurvey.Kind? = nil) throws(BlockError) -> VhdSurvey {
        let blocks = blocks(of: try footer.virtualSize())
        var limit = footerOffset ?? 0
        if footerOffset == nil { limit = try file.length() }
        return VhdSurvey(table, header, limit: limit, blocks: min(blocks, table.count), listing: kind)
    }

    /// Looks through the table before the first change, and mends footers.
    ///
    /// - Throws: `corrupt` where table or header are damaged: with a wrong place of the table or size of the
    ///   blocks, writing would destroy data.
    mutating func prepareForWriting() throws(BlockError) {
        guard header.isIntact else {
            throw BlockError(
                .corrupt,
                "The checksum of the VHD image's header is wrong; it can be read, and repaired with "
                    + "'check -r all'")
        }
        let survey = try survey()
        guard survey.findingCount == 0 else {
            throw BlockError(
                .corrupt,
                "The image's block table is damaged; it can be read, and repaired with "
                    + "'check -r all'")
        }
        adopt(survey)
        if footerOffset == nil || isCopyStale || !damages.isEmpty { try mendFooters() }
    }

    mutating func adopt(_ survey: VhdSurvey) {
        nextFree = survey.end.roundedUp(to: Vhd.sectorBytes) ?? survey.end
        spare = VhdSpareBlocks(gaps: survey.gaps)
        allocatedCount = survey.allocated
    }

    /// - Throws: `limit` for a table that refers to blocks again and again, each with a bitmap to look at.
    func checkRepeats() throws(BlockError) {
        guard isDifferencing else { return }
        var repeats = TableRepeats(capacity: table.count)
        for block in 0..<table.count where table[block] != Vhd.unallocated {
            repeats.note(UInt64(table[block]))
        }
        try repeats.check(entriesPerTable: header.blockBytes / Vhd.sectorBytes, path: file.filename)
    }

    // MARK: Blocks

    /// Takes space for a block. It is in the table only once it is linked.
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

    /// Takes space for a block, and gives its bitmap and its entry theirs.
    ///
    /// - Returns: where its bitmap goes.
    /// - Throws: `noSpace`, `io`; nothing is taken then.
    mutating func take(_ block: Int) throws(BlockError) -> Int {
        let place = try takePlace()
        do throws(BlockError) { try reserve(block, at: place) } catch {
            giveBack(place, for: block)
            throw error
        }
        return place
    }

    /// Makes the file longer: it ends with a footer before and after.
    mutating func moveFooter(to offset: Int) throws(BlockError) {
        try file.write(footer.sealed().span.bytes, at: offset)
        try file.flush()
        footerOffset = offset
    }

    /// Gives back what the file has behind its last block. A failure leaves nothing but a longer file.
    mutating func trim() {
        guard let offset = footerOffset, offset > nextFree, !footersAreDirty else { return }
        do throws(BlockError) {
            do throws(BlockError) {
                try file.write(footer.sealed().span.bytes, at: nextFree)
            } catch {
                // A hole on a full disk: what goes anyway makes room.
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

    /// Gives back a place that the table never referred to.
    mutating func giveBack(_ place: Int, for block: Int) {
        bitmaps.discard(place..<place + header.bitmapBytes)
        spare.giveBack(place, for: block)
        while spare.takeLast(endingAt: nextFree, header) {
            nextFree -= header.strideBytes
            hasReserve = true
        }
    }

    /// Lets blocks of a disk without parent have what is left between others, as holes. What cannot be
    /// given to them is taken by the next writer.
    mutating func fillGaps() throws(BlockError) {
        guard !isDifferencing else { return }
        for (place, block) in spare.takeReturned() where self.place(of: block) == nil {
            try file.writeZeroes(at: place + header.bitmapBytes, count: header.blockBytes)
            try reserve(block, at: place)
            try link(block, to: place, 0..<header.blockBytes / Vhd.sectorBytes)
        }
    }

    /// Gives a block's bitmap and its entry in the table their space in the file.
    mutating func reserve(_ block: Int, at place: Int) throws(BlockError) {
        try makeRoom()
        try bitmaps.reserve(try bitmaps.slot(at: place, load: false))
        try table.reserve(block, in: file)
    }

    // MARK: Bitmaps

    /// The first sectors of `sectors` whose bits are alike.
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

    /// Gives the bitmap of a stored block its space, where ``mark(_:_:)`` will change it.
    ///
    /// - Returns: whether all of the sectors are here already.
    mutating func reserveMark(_ place: Int, _ sectors: Range<Int>) throws(BlockError) -> Bool {
        try makeRoom()
        let run = try sectorRun(at: place, sectors)
        if run.isSet && run.end == sectors.upperBound { return true }
        try bitmaps.reserve(try bitmaps.slot(at: place))
        return false
    }

    /// Notes that sectors of a stored block are here. All of them are, in a disk without parent.
    mutating func mark(_ place: Int, _ sectors: Range<Int>) throws(BlockError) {
        if try reserveMark(place, sectors) { return }
        let slot = try bitmaps.slot(at: place)
        set(isDifferencing ? sectors : 0..<header.blockBytes / Vhd.sectorBytes, in: slot)
    }

    /// Points the table to a block whose data is in the file.
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

    /// Makes everything durable, in the order above.
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

    /// Writes back all that is left to write, and gives back what the file has too much.
    mutating func finish() throws(BlockError) {
        if isReadOnly { return }
        try? fillGaps()
        if hasChanges { try commit() }
        if hasReserve { trim() }
    }

    /// Writes the header's first sector, in which all of it is that changes in place. Durable on return.
    mutating func writeHeader() throws(BlockError) {
        headerIsDirty = true
        let bytes = Array(header.sealed().prefix(Vhd.sectorBytes))
        try file.write(bytes.span.bytes, at: header.offset)
        try file.flush()
        headerIsDirty = false
    }

    /// Writes both footers, the copy first: that at the end is the one that counts. Durable on return.
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

    /// Where the footer of a file belongs that ends without one.
    private func footerPlace() throws(BlockError) -> Int {
        max(nextFree, max(0, try file.length() - 1).roundedDown(to: Vhd.sectorBytes))
    }

    mutating func mendFooters() throws(BlockError) {
        try writeFooters()
        damages = []
        isCopyStale = false
    }
}
