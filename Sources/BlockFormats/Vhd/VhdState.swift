import BlockCore

/// Descriptions, block table and bitmaps of an open dynamic or differencing image. Used under the driver's
/// lock.
///
/// The order of writes. The footer comes first when the file grows: it goes to the new end, which takes a
/// flush, before blocks are put over the old one; so the file ends with a footer at any time. Then data; a
/// flush; bitmaps, which say of a differencing disk's sectors that they are here; a flush; the table; a
/// flush. Killed anywhere, the worst is space that nothing refers to, which the next writer takes.
struct VhdState: FlushableTables {
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
    /// Blocks that are being filled; whoever changes the whole table waits until there are none.
    var fillsInFlight = 0
    var allocatedCount = 0
    var writes: TableWrites?

    private static let cacheBytes = 2 << 20
    /// How many blocks the file grows by at most.
    private static let reservedBlocks = 32

    init(
        file: BlockNode, layout: VhdLayout, header: VhdHeader, isReadOnly: Bool
    ) throws(BlockError) {
        self.file = file
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

    /// Where the bitmap and then the data of a block is, in bytes; `nil` where it is not stored.
    func place(of block: Int) -> Int? {
        let entry = table[block]
        return entry == Vhd.unallocated ? nil : Int(entry) * Vhd.sectorBytes
    }

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

    /// The first sectors from `first` on, up to `end`, whose bits are alike.
    func run(at place: Int, _ first: Int, _ end: Int) throws(BlockError) -> (isSet: Bool, end: Int) {
        let bits = bitmaps.bytes(of: try bitmaps.slot(at: place))
        return Self.run(bits.bytes, first, end)
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

    /// Notes that sectors of a stored block are here. All of them are, in a disk without parent.
    mutating func mark(_ place: Int, _ sectors: Range<Int>) throws(BlockError) {
        try makeRoom()
        let slot = try bitmaps.slot(at: place)
        let (isSet, end) = Self.run(bitmaps.bytes(of: slot).bytes, sectors.lowerBound, sectors.upperBound)
        if isSet && end == sectors.upperBound { return }
        try bitmaps.reserve(slot)
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

/// Places for blocks that nothing refers to: left over by a crash, or given back. Filled again first.
struct VhdSpareBlocks {
    private var gaps: [Range<Int>] = []
    private var returned: [(place: Int, block: Int)] = []

    init(gaps: [Range<Int>] = []) { self.gaps = gaps.reversed() }

    mutating func take(_ header: VhdHeader) -> Int? {
        if let last = returned.popLast() { return last.place }
        while let gap = gaps.popLast() {
            let place = header.blockPlace(from: gap.lowerBound)
            let end = place + header.strideBytes
            if end > gap.upperBound { continue }
            if end < gap.upperBound { gaps.append(end..<gap.upperBound) }
            return place
        }
        return nil
    }

    mutating func giveBack(_ place: Int, for block: Int) { returned.append((place, block)) }

    /// Forgets a place that was given back and ends at `end`. `false` where there is none.
    mutating func takeLast(endingAt end: Int, _ header: VhdHeader) -> Bool {
        guard let index = returned.firstIndex(where: { $0.place + header.strideBytes == end }) else {
            return false
        }
        returned.remove(at: index)
        return true
    }

    /// Hands over what was given back, with the blocks for which it was taken.
    mutating func takeReturned() -> [(place: Int, block: Int)] {
        defer { returned = [] }
        return returned
    }
}
