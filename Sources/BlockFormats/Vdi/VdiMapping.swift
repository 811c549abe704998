import BlockCore

/// The mapping: runs, grants, links and clearing. The unit is a block.
extension VdiState {
    func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let first = offset / header.blockBytes
        let inside = offset % header.blockBytes
        guard first < map.count else { return Extent(.zero(hostOffset: nil), length: limit) }
        let entry = map[first]
        var end = first + 1
        while end < map.count, (end - first) * header.blockBytes - inside < limit,
            continues(map[end], entry, by: end - first)
        {
            end += 1
        }
        return Extent(
            status(entry, inside), length: min(limit, (end - first) * header.blockBytes - inside))
    }

    /// Whether an entry `distance` blocks on continues a run.
    private func continues(_ next: UInt32, _ entry: UInt32, by distance: Int) -> Bool {
        guard entry < Vdi.discarded else { return next == entry }
        return next < Vdi.discarded && header.blockExtraBytes == 0 && Int(next) == Int(entry) + distance
    }

    private func status(_ entry: UInt32, _ inside: Int) -> Extent.Status {
        switch entry {
        case Vdi.unallocated: header.type.hasParent ? .unallocated : .zero(hostOffset: nil)
        case Vdi.discarded: .zero(hostOffset: nil)
        default: .data(hostOffset: header.hostOffset(ofBlock: Int(entry)) + inside)
        }
    }

    mutating func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        let extent = try run(at: guest.lowerBound, limit: guest.count)
        if case .data(let host) = extent.status {
            let part = guest.lowerBound..<guest.lowerBound + extent.length
            return WriteGrant(inPlace: part, at: host, in: file)
        }
        let block = guest.lowerBound / header.blockBytes
        let unit = block * header.blockBytes..<(block + 1) * header.blockBytes
        try map.reserve(block, in: file)
        let index = try takeBlock()
        return WriteGrant(
            new: guest.clamped(to: unit), units: unit, at: header.hostOffset(ofBlock: Int(index)), in: file,
            rest: extent.status == .unallocated ? .below : .zero, tag: Int(index))
    }

    mutating func link(_ grant: inout WriteGrant) throws(BlockError) {
        if grant.isNew { map[grant.units.lowerBound / header.blockBytes] = UInt32(grant.tag) }
    }

    mutating func giveBack(_ grant: WriteGrant) {
        guard grant.isNew else { return }
        giveBack(
            UInt32(grant.tag), for: grant.head == .zero ? grant.units.lowerBound / header.blockBytes : nil)
    }

    /// Stored blocks become holes of the file and stay in the map: other programs expect all counted blocks
    /// to be in use. Over a parent, unallocated blocks get the zero entry.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        let extent = try run(at: range.lowerBound, limit: range.count)
        let part = range.lowerBound..<range.lowerBound + extent.length
        switch extent.status {
        case .data(let host):
            return ClearStep(.zero(WriteGrant(inPlace: part, at: host, in: file)), length: part.count)
        case .unallocated:
            for block in part.lowerBound / header.blockBytes...(part.upperBound - 1) / header.blockBytes {
                map[block] = Vdi.discarded
            }
        default: break
        }
        return ClearStep(.done, length: part.count)
    }
}
