import BlockCore

extension VdiDriver: Resizable {
    /// Changes the size of the disk.
    ///
    /// The order of writes when growing:
    ///
    /// 1. zeroes over the new part of the last block;
    /// 2. copies of the blocks that a longer map will overwrite, at the end of the file;
    /// 3. the longer map, in which the new blocks are zero over a parent; a flush;
    /// 4. the header, atomically, with the map's place and the new size; a flush.
    ///
    /// When shrinking, the header is first; then the gaps of the lost blocks are closed.
    ///
    /// - Throws: `unsupported` for a preallocation; `limit`, `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        let blocks = virtualSize / blockBytes + (virtualSize % blockBytes == 0 ? 0 : 1)
        guard blocks <= Vdi.Limit.blocks else {
            throw BlockError(.limit, "A VDI image cannot have more than \(Vdi.Limit.blocks) blocks")
        }
        let before = session.withLock { $0.header.virtualSize }
        if virtualSize == before { return }
        let block = before.roundedUp(to: blockBytes) ?? before
        if virtualSize > before { try guest.clearTail(before..<min(virtualSize, block)) }
        try session.exclusively { (state) throws(BlockError) in
            try state.commit()
            if virtualSize > before {
                try state.grow(to: blocks, virtualSize)
            } else {
                try state.shrink(to: blocks, virtualSize)
            }
        }
    }
}

extension VdiState {
    fileprivate mutating func shrink(to blocks: Int, _ virtualSize: Int) throws(BlockError) {
        let before = header
        header.blockCount = blocks
        header.virtualSize = virtualSize
        do throws(BlockError) {
            try writeHeader()
            try file.flush()
        } catch {
            restore(before)
            throw error
        }
        map.resize(to: blocks, filler: Vdi.unallocated)
        let survey = VdiSurvey(map: map, count: header.allocatedCount)
        if survey.unusedCount > 0 { try closeGaps(survey) }
    }

    fileprivate mutating func grow(to blocks: Int, _ virtualSize: Int) throws(BlockError) {
        let shift = blocksInTheWay(ofMapWith: blocks)
        let moved = header.dataOffset + shift * (header.blockBytes + header.blockExtraBytes)
        guard moved <= Int(UInt32.max) else {
            throw BlockError(.limit, "The block map of this image cannot grow any more", path: file.filename)
        }
        if shift > 0 { try vacate(shift) }
        let before = self
        do throws(BlockError) { try writeGrown(blocks, virtualSize, movingBy: shift) } catch {
            restore(before.header)
            map = before.map
            throw error
        }
    }

    /// Called after a failure: the file may have either header, so the old one is written again before any
    /// other change. No block is stored before that where the new header's map may lie.
    private mutating func restore(_ before: VdiHeader) {
        header = before
        spare = SpareBlocks(survey: nil)
        headerIsDirty = true
    }

    /// The entry of a new block: it reads as zeroes, even if the parent is longer.
    private var newEntry: UInt32 { header.type.hasParent ? Vdi.discarded : Vdi.unallocated }

    /// The number of blocks of the data area that a longer map overlaps; 0 when it fits before the data.
    private func blocksInTheWay(ofMapWith blocks: Int) -> Int {
        let bytes = BlockTable.fileBytes(entries: blocks)
        guard header.mapOffset + bytes > header.dataOffset else { return 0 }
        let total = header.blockBytes + header.blockExtraBytes
        return bytes / total + (bytes % total == 0 ? 0 : 1)
    }

    private mutating func writeGrown(
        _ blocks: Int, _ virtualSize: Int, movingBy shift: Int
    ) throws(BlockError) {
        let before = map.count
        if shift > 0 {
            try moveMap(to: blocks, by: shift)
        } else {
            map.resize(to: blocks, filler: newEntry)
            try map.write(to: file)
            try file.flush()
        }
        header.blockCount = blocks
        header.virtualSize = virtualSize
        if header.type == .fixed { try takeAll(from: before) }
        try writeHeader()
        try file.flush()
    }

    /// Writes the longer map over the first, vacated blocks of the data area; the other blocks get new
    /// numbers.
    private mutating func moveMap(to blocks: Int, by shift: Int) throws(BlockError) {
        let total = header.blockBytes + header.blockExtraBytes
        var entries = map.entries.map { $0 < Vdi.discarded ? $0 - UInt32(shift) : $0 }
        entries += [UInt32](repeating: newEntry, count: blocks - entries.count)
        map = BlockTable(entries: entries, offset: header.dataOffset, isBigEndian: false)
        header.mapOffset = header.dataOffset
        header.dataOffset += shift * total
        header.allocatedCount = max(0, header.allocatedCount - shift)
        spare = SpareBlocks(survey: VdiSurvey(map: map, count: header.allocatedCount))
        try map.write(to: file)
        try file.flush()
    }

    /// Moves the guest's data out of the first blocks of the data area.
    private mutating func vacate(_ shift: Int) throws(BlockError) {
        spare = SpareBlocks(survey: nil)
        if header.allocatedCount < shift, map.entries.contains(where: { $0 < shift }) {
            header.allocatedCount = shift
            headerIsDirty = true
        }
        try vacate(header.dataOffset..<hostOffset(ofEntry: UInt32(shift)))
    }

    /// Takes all new blocks of a static image.
    private mutating func takeAll(from block: Int) throws(BlockError) {
        for block in block..<map.count { map[block] = try takeBlock() }
        let end = header.dataOffset + header.allocatedCount * (header.blockBytes + header.blockExtraBytes)
        if try file.length() < end { try file.resize(to: end) }
        try map.write(to: file)
        try file.flush()
    }
}
