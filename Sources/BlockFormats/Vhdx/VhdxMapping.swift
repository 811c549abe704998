import BlockCore

/// The mapping: runs, grants, links and clearing. The unit is a block. Requests on one block run
/// concurrently; only the first write to a block excludes others.
extension VhdxState {
    /// The meaning of a BAT entry for a read.
    enum Kind: Equatable {
        case zero
        /// The block shows the parent.
        case absent
        case stored(at: Int)
        /// Stored in part: a sector bitmap marks the sectors that are stored; the others show the parent.
        case partial(at: Int)
    }

    /// - Throws: `corrupt` for an invalid entry.
    func kind(_ entry: UInt64, block: Int) throws(BlockError) -> Kind {
        switch Vhdx.state(of: entry) {
        case .notPresent: return geometry.hasParent ? .absent : .zero
        case .undefined, .zero, .unmapped, .unmappedBefore1: return .zero
        case .fullyPresent: return .stored(at: try place(entry, block: block))
        case .partiallyPresent where geometry.hasParent: return .partial(at: try place(entry, block: block))
        case .partiallyPresent, nil:
            throw BlockError(
                .corrupt, "The BAT entry of block \(block) is invalid (\(String(entry, radix: 16)))",
                path: file.filename)
        }
    }

    /// The offset of a block, also one behind the end of the file: the node reports lost data.
    private func place(_ entry: UInt64, block: Int) throws(BlockError) -> Int {
        guard let offset = Vhdx.offset(of: entry), offset >= Vhdx.unitBytes else {
            throw BlockError(
                .corrupt, "Block \(block) is misplaced (offset \(entry & ~0xF_FFFF))", path: file.filename)
        }
        return offset
    }

    /// - Throws: `limit` for a BAT that refers to the same sector bitmaps too often; `io`.
    mutating func checkRepeats() throws(BlockError) {
        guard geometry.hasParent else { return }
        var repeats = TableRepeats(capacity: geometry.blockCount / geometry.blocksPerChunk + 1)
        for block in stride(from: 0, to: geometry.blockCount, by: geometry.blocksPerChunk) {
            let entry = try table.entry(geometry.bitmapIndex(forBlock: block), view)
            guard entry & Vhdx.stateMask == Vhdx.bitmapPresent else { continue }
            repeats.note(entry / UInt64(Vhdx.unitBytes))
        }
        try repeats.check(entriesPerTable: Vhdx.sectorsPerBitmap, path: file.filename)
    }

    mutating func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let extent = try mapped(at: offset, limit: limit)
        // Bytes that are only in the log are read by the driver itself.
        guard case .data(let host) = extent.status, try needsLog(host..<host + extent.length) else {
            return extent
        }
        return Extent(.encoded(compressed: false), length: extent.length)
    }

    /// Whether the log replaces bytes of this range, also behind the end of the file that it extends.
    private func needsLog(_ range: Range<Int>) throws(BlockError) -> Bool {
        let patches = view.patches
        if !patches.isEmpty, patches.overlap(range) { return true }
        guard range.lowerBound < patches.fileBytes else { return false }
        return try file.storedCount(at: range.lowerBound, count: range.count) < range.count
    }

    /// The run of bytes at a guest offset inside the disk, as the BAT places them.
    mutating func mapped(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let first = offset / geometry.blockBytes
        let inside = offset % geometry.blockBytes
        let entry = try entry(ofBlock: first)
        let kind = try kind(entry, block: first)
        if case .partial(let place) = kind {
            let run = try sectorRun(block: first, inside: inside, limit: limit)
            return Extent(
                run.isPresent ? .data(hostOffset: place + inside) : .unallocated, length: run.length)
        }
        let wanted = (limit - 1) / geometry.blockBytes + 2
        let count = run(from: first, atMost: min(wanted, geometry.blockCount - first), entry, kind)
        let length = min(limit, count * geometry.blockBytes - inside)
        switch kind {
        case .zero: return Extent(.zero(hostOffset: nil), length: length)
        case .stored(let place): return Extent(.data(hostOffset: place + inside), length: length)
        case .absent, .partial: return Extent(.unallocated, length: length)
        }
    }

    /// The number of blocks from `first` on that continue the run of its entry and kind.
    private mutating func run(from first: Int, atMost most: Int, _ entry: UInt64, _ kind: Kind) -> Int {
        var sure = most
        var step: UInt64 = 0
        if case .stored(let place) = kind {
            sure = min(most, (Vhdx.Limit.fileBytes - place) / geometry.blockBytes)
            step = UInt64(geometry.blockBytes)
        }
        var count = 1
        var entry = entry
        while count < most {
            count += alike(first + count..<max(first + count, first + sure), entry &+ step, step)
            // An invalid entry ends the run; the read of its own block reports it.
            guard count < most, let next = try? self.entry(ofBlock: first + count),
                let kindThere = try? self.kind(next, block: first + count),
                continues(kindThere, kind, by: count)
            else { break }
            entry = next
            count += 1
        }
        return count
    }

    /// The number of these blocks whose entries begin with `entry` and grow by `step`.
    private mutating func alike(_ blocks: Range<Int>, _ entry: UInt64, _ step: UInt64) -> Int {
        var next = blocks.lowerBound
        while next < blocks.upperBound {
            // The entry of a sector bitmap lies between two chunks.
            let chunkEnd = (next / geometry.blocksPerChunk + 1) * geometry.blocksPerChunk
            let most = min(chunkEnd, blocks.upperBound) - next
            let value = entry &+ step &* UInt64(next - blocks.lowerBound)
            let index = geometry.entryIndex(ofBlock: next)
            let count = (try? table.run(from: index, atMost: most, of: value, step: step, view)) ?? 0
            next += count
            if count < most { break }
        }
        return next - blocks.lowerBound
    }

    private func continues(_ next: Kind, _ first: Kind, by distance: Int) -> Bool {
        guard case .stored(let place) = first else { return next == first }
        return next == .stored(at: place + distance * geometry.blockBytes)
    }

    /// Whether the sector at `inside` of a partial block is stored, and the length of the run of such sectors
    /// in bytes.
    private mutating func sectorRun(
        block: Int, inside: Int, limit: Int
    ) throws(BlockError) -> (isPresent: Bool, length: Int) {
        let bitmap = try table.entry(geometry.bitmapIndex(forBlock: block), view)
        guard bitmap & Vhdx.stateMask == Vhdx.bitmapPresent, let place = Vhdx.offset(of: bitmap),
            place >= Vhdx.unitBytes, place + Vhdx.unitBytes <= fileBytes
        else {
            throw BlockError(
                .corrupt, "The sector bitmap of block \(block) is missing", path: file.filename)
        }
        let sector = inside / geometry.sectorBytes
        let bit =
            block % geometry.blocksPerChunk * (geometry.blockBytes / geometry.sectorBytes) + sector
        let page = try bitmaps.page(at: place + (bit / 8).roundedDown(to: Vhdx.pageBytes), view)
        let run = Self.run(in: page, from: bit % (Vhdx.pageBytes * 8))
        let end = min(geometry.blockBytes, (sector + run.count) * geometry.sectorBytes)
        return (run.isSet, min(limit, end - inside))
    }

    /// The run of equal bits from `first` on; the lowest bit of a byte is the first.
    private static func run(in page: [UInt8], from first: Int) -> (isSet: Bool, count: Int) {
        let isSet = page[first / 8] & (1 << UInt8(first % 8)) != 0
        let whole: UInt8 = isSet ? 0xFF : 0
        var bit = first + 1
        while bit < page.count * 8 {
            if bit % 8 == 0, page[bit / 8] == whole {
                bit += 8
                continue
            }
            guard (page[bit / 8] & (1 << UInt8(bit % 8)) != 0) == isSet else { break }
            bit += 1
        }
        return (isSet, bit - first)
    }
}

// MARK: Writing

extension VhdxState {
    /// The use of a grant, stored as its tag.
    private enum Grant: Int {
        /// Bytes of a stored block.
        case stored
        /// A block that was stored in part, and becomes whole in place.
        case partial
        /// A new place for a block.
        case block
        /// A new place for a block that reads as zeroes.
        case zeroBlock
    }

    static var unitsOverlap: Bool { true }

    func units(around guest: Range<Int>) -> Range<Int> { unit(of: guest.lowerBound / geometry.blockBytes) }

    /// The guest bytes of a block; the last one reaches beyond the end of the disk.
    private func unit(of block: Int) -> Range<Int> {
        block * geometry.blockBytes..<(block + 1) * geometry.blockBytes
    }

    mutating func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        let block = guest.lowerBound / geometry.blockBytes
        let unit = unit(of: block)
        let part = guest.clamped(to: unit)
        try beginDataChanges()
        let kind = try kind(entry(ofBlock: block), block: block)
        switch kind {
        case .stored(let host):
            let run = try mapped(at: guest.lowerBound, limit: guest.count)
            return inPlace(guest.lowerBound..<guest.lowerBound + run.length, ofBlockAt: host)
        case .partial(let host):
            try reserve(block: block)
            var grant = inPlace(part, ofBlockAt: host)
            (grant.units, grant.hostOffset, grant.tag) = (unit, host, Grant.partial.rawValue)
            (grant.head, grant.tail) = (.missing, .missing)
            return grant
        case .zero, .absent:
            if table.isCrowded { try commit() }
            try reserve(block: block)
            let isZero = kind == .zero || unit.lowerBound >= backingEnd
            return WriteGrant(
                new: part, units: unit, at: try allocate(geometry.blockBytes), in: file,
                rest: kind == .zero ? .zero : .below, tag: (isZero ? Grant.zeroBlock : .block).rawValue)
        }
    }

    private func inPlace(_ guest: Range<Int>, ofBlockAt host: Int) -> WriteGrant {
        WriteGrant(
            inPlace: guest, at: host + guest.lowerBound % geometry.blockBytes, in: file,
            tag: Grant.stored.rawValue)
    }

    mutating func link(_ grant: inout WriteGrant) throws(BlockError) {
        guard grant.tag != Grant.stored.rawValue else { return }
        try setEntry(
            ofBlock: grant.units.lowerBound / geometry.blockBytes,
            to: Vhdx.entry(.fullyPresent, at: grant.hostOffset))
    }

    mutating func giveBack(_ grant: WriteGrant) {
        guard grant.isNew else { return }
        let isZero = grant.tag == Grant.zeroBlock.rawValue
        giveBack(
            grant.hostOffset, ofZeroBlock: isZero ? grant.units.lowerBound / geometry.blockBytes : nil)
    }

    /// Whole blocks get the zero entry and lose their place, except in a fixed image; parts of stored blocks
    /// become holes of the file. Parts that show the parent are stored as zeroes, except for a discard.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        let block = range.lowerBound / geometry.blockBytes
        let unit = unit(of: block)
        let part = range.clamped(to: unit)
        let isWhole = part == unit.clamped(to: 0..<virtualSize)
        switch try kind(entry(ofBlock: block), block: block) {
        case .zero:
            return ClearStep(.done, length: try mapped(at: range.lowerBound, limit: range.count).length)
        case .stored(let host)
        where !isWhole || mode == .zero(keepsSpace: true) || metadata.leavesBlocksAllocated:
            try beginDataChanges()
            return ClearStep(.zero(inPlace(part, ofBlockAt: host)), length: part.count)
        case .stored(let host) where isWhole, .partial(let host) where isWhole:
            try markZero(block)
            release(host..<host + geometry.blockBytes)
        case .absent where isWhole: try markZero(block)
        case .absent where mode != .discard && part.lowerBound < backingEnd, .partial where mode != .discard:
            return ClearStep(.zero(try grant(part, over: backingEnd)), length: part.count)
        case .stored, .absent, .partial: break
        }
        return ClearStep(.done, length: part.count)
    }

    /// Sets the zero entry of a whole block. The caller releases its place only after this, because no table
    /// may refer to released space.
    private mutating func markZero(_ block: Int) throws(BlockError) {
        try beginDataChanges()
        if table.isCrowded { try commit() }
        try setEntry(ofBlock: block, to: Vhdx.zeroEntry)
    }
}

/// A cache of sector bitmap pages. They never change: a write makes a partial block whole.
struct VhdxBitmapCache: Sendable {
    private static let keptPages = 1024
    private var pages: [Int: [UInt8]] = [:]

    mutating func page(at offset: Int, _ view: VhdxView) throws(BlockError) -> [UInt8] {
        if let page = pages[offset] { return page }
        let page = try view.read(at: offset, count: Vhdx.pageBytes)
        if pages.count >= Self.keptPages { pages = [:] }
        pages[offset] = page
        return page
    }
}
