import BlockCore

/// The mapping of a dynamic disk: runs, grants, links and clearing.
///
/// Without a parent, the unit is a block. Over a parent, the unit is a sector: the block's bitmap marks the
/// stored sectors, and the data of the others is ignored.
extension VhdState {
    /// The offset of a block's bitmap, which its data follows, in bytes; `nil` when the block is not stored.
    func place(of block: Int) -> Int? {
        let entry = table[block]
        return entry == Vhd.unallocated ? nil : Int(entry) * Vhd.sectorBytes
    }

    private func unit(of block: Int) -> Range<Int> {
        block * header.blockBytes..<(block + 1) * header.blockBytes
    }

    /// The file offset of a guest byte in the block at `place`.
    private func hostOffset(_ place: Int, _ guest: Int) -> Int {
        place + header.bitmapBytes + guest % header.blockBytes
    }

    /// The sectors of a block that a guest range touches.
    private func sectors(of guest: Range<Int>) -> Range<Int> {
        let first = guest.lowerBound % header.blockBytes
        return first / Vhd.sectorBytes..<(first + guest.count + Vhd.sectorBytes - 1) / Vhd.sectorBytes
    }

    private func wholeSectors(_ guest: Range<Int>) -> Range<Int> {
        let end = guest.upperBound.roundedUp(to: Vhd.sectorBytes) ?? guest.upperBound
        return guest.lowerBound.roundedDown(to: Vhd.sectorBytes)..<end
    }

    mutating func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let block = offset / header.blockBytes
        guard let place = place(of: block) else {
            return Extent(.unallocated, length: unallocated(from: offset, limit))
        }
        let end = min(unit(of: block).upperBound, offset + limit)
        let data = Extent.Status.data(hostOffset: hostOffset(place, offset))
        guard isDifferencing else { return Extent(data, length: end - offset) }
        // A lost bitmap must not make the sectors show the parent.
        try file.requireStored(at: place, count: header.bitmapBytes)
        let sectors = sectors(of: offset..<end)
        let run = try sectorRun(at: place, sectors)
        let stop = unit(of: block).lowerBound + run.end * Vhd.sectorBytes
        return Extent(run.isSet ? data : .unallocated, length: min(end, stop) - offset)
    }

    /// The length of the unallocated run, in bytes.
    private func unallocated(from offset: Int, _ limit: Int) -> Int {
        var end = offset / header.blockBytes + 1
        while end < table.count, end * header.blockBytes - offset < limit, table[end] == Vhd.unallocated {
            end += 1
        }
        return min(limit, end * header.blockBytes - offset)
    }

    mutating func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        let block = guest.lowerBound / header.blockBytes
        let part = guest.clamped(to: unit(of: block))
        let whole = isDifferencing ? wholeSectors(part) : unit(of: block)
        guard let place = place(of: block) else {
            let place = try take(block)
            return WriteGrant(
                new: part, units: whole, at: hostOffset(place, whole.lowerBound), in: file,
                rest: isDifferencing ? .below : .zero, tag: place)
        }
        let hasAll = try reserveMark(place, sectors(of: part))
        var grant = WriteGrant(inPlace: part, at: hostOffset(place, part.lowerBound), in: file, tag: place)
        if isDifferencing && !hasAll {
            (grant.units, grant.hostOffset) = (whole, hostOffset(place, whole.lowerBound))
            (grant.head, grant.tail) = (.old, .old)
        }
        return grant
    }

    mutating func link(_ grant: inout WriteGrant) throws(BlockError) {
        let sectors = sectors(of: grant.guest)
        guard grant.isNew else { return try mark(grant.tag, sectors) }
        try link(grant.guest.lowerBound / header.blockBytes, to: grant.tag, sectors)
    }

    mutating func giveBack(_ grant: WriteGrant) {
        if grant.isNew { giveBack(grant.tag, for: grant.guest.lowerBound / header.blockBytes) }
    }

    /// Stored blocks become holes of the file and stay in the table: other programs expect a file without
    /// gaps. Over a parent, unallocated zeroes get a block that is a hole. A discard leaves sectors that show
    /// the parent.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        let extent = try run(at: range.lowerBound, limit: range.count)
        let block = range.lowerBound / header.blockBytes
        let place = place(of: block)
        let shows = isDifferencing && range.lowerBound < backingEnd
        if extent.status == .unallocated, mode == .discard || (place == nil && !shows) {
            return ClearStep(.done, length: extent.length)
        }
        let end = min(range.lowerBound + extent.length, unit(of: block).upperBound)
        let part = range.lowerBound..<end
        guard let place else {
            let place = try take(block)
            return ClearStep(
                .zero(
                    WriteGrant(
                        new: part, units: part, at: hostOffset(place, end - part.count), in: file,
                        rest: .keep, tag: place)), length: part.count)
        }
        if extent.status == .unallocated { _ = try reserveMark(place, sectors(of: part)) }
        let grant = WriteGrant(inPlace: part, at: hostOffset(place, part.lowerBound), in: file, tag: place)
        return ClearStep(.zero(grant), length: part.count)
    }
}
