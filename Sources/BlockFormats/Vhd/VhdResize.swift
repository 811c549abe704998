import BlockCore

extension VhdDriver: Resizable {
    /// Changes the size of the disk.
    ///
    /// The order of writes when growing:
    ///
    /// 1. zeroes over old data and parent bytes in the new space; a flush;
    /// 2. copies of the blocks that a longer table will overwrite, at the end of the file;
    /// 3. the longer table; a flush;
    /// 4. the header's first sector, which refers to it;
    /// 5. the footers with the new size.
    ///
    /// When shrinking, the size is first; then the table, a flush; then the gaps of the lost blocks are
    /// closed, and the file is cut.
    ///
    /// - Throws: `unsupported` for a preallocation or `force_size_calc`; `invalidArgument`, `limit`,
    ///   `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        guard virtualSize % Vhd.sectorBytes == 0, virtualSize <= Vhd.Limit.diskBytes else {
            throw BlockError(
                .invalidArgument, "The size must be a multiple of 512 bytes and at most 2040 GiB")
        }
        let before = self.virtualSize
        guard try footer.virtualSize() == before else {
            throw BlockError(
                .unsupported, "An image that is opened with 'force_size_calc' cannot be resized")
        }
        try session.exclusively { (image) throws(BlockError) in
            if image.dynamic == nil { return try image.fixed.resize(from: before, to: virtualSize) }
            try image.dynamic?.resize(from: before, to: virtualSize, guest)
        }
    }
}

extension VhdFixed {
    fileprivate mutating func resize(from old: Int, to size: Int) throws(BlockError) {
        try settle(file)
        if size > old { return try grow(from: old, to: size, file) }
        if size < old { try shrink(to: size, file) }
    }
}

extension VhdState {
    fileprivate mutating func resize(
        from old: Int, to size: Int, _ guest: GuestAccess
    ) throws(BlockError) {
        try commit()
        if size > old { return try grow(from: old, to: size, guest) }
        if size < old { try shrink(to: size) }
    }

    private mutating func shrink(to size: Int) throws(BlockError) {
        try setSize(size)
        // The disk has its new size; the rest only makes the file smaller.
        for block in blocks(of: size)..<table.count { unlink(block) }
        do throws(BlockError) {
            try commit()
            var shorter = table
            shorter.resize(to: blocks(of: size), filler: Vhd.unallocated)
            try replaceTable(shorter)
            try closeGaps()
        } catch {}
    }

    /// Each footer is one sector, so it changes atomically; the copy first. The block table is valid for both
    /// sizes.
    private mutating func setSize(_ size: Int) throws(BlockError) {
        let before = footer
        footer.setSize(size)
        do throws(BlockError) { try writeFooters() } catch {
            footer = before
            throw error
        }
    }

    /// Removes a block from the table.
    mutating func unlink(_ block: Int) {
        guard let place = place(of: block) else { return }
        bitmaps.discard(place..<place + 1)
        table[block] = Vhd.unallocated
        allocatedCount -= 1
    }

    private mutating func grow(
        from old: Int, to size: Int, _ guest: GuestAccess
    ) throws(BlockError) {
        for block in min(blocks(of: old), table.count)..<table.count { unlink(block) }
        try commit()
        if blocks(of: size) > header.blocks { try growTable(to: blocks(of: size)) }
        try clear(old..<size, guest)
        try commit()
        try setSize(size)
    }

    /// Makes new space read as zeroes where a block is stored or the parent would show.
    private mutating func clear(_ range: Range<Int>, _ guest: GuestAccess) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let block = offset / header.blockBytes
            let inside = offset % header.blockBytes
            let count = min(header.blockBytes - inside, range.upperBound - offset)
            let stored = place(of: block)
            let shows = isDifferencing && guest.hasBacking(in: offset..<offset + count)
            // No block behind the first one is stored.
            if stored == nil && !shows && inside == 0 { return }
            offset += count
            let sectors = inside / Vhd.sectorBytes..<(inside + count) / Vhd.sectorBytes
            if let stored {
                try file.writeZeroes(at: stored + header.bitmapBytes + inside, count: count)
                try mark(stored, sectors)
            } else if shows {
                let place = try takePlace()
                try file.writeZeroes(at: place + header.bitmapBytes + inside, count: count)
                try link(block, to: place, sectors)
            }
        }
    }

    // MARK: The table

    private mutating func growTable(to blocks: Int) throws(BlockError) {
        guard blocks <= Vhd.Limit.blocks else {
            throw BlockError(.limit, "A VHD image cannot have more than \(Vhd.Limit.blocks) blocks")
        }
        let bytes = BlockTable.fileBytes(entries: blocks)
        let wanted = header.tableOffset..<header.tableOffset + bytes
        let others = VhdSurvey.metadata(of: header).filter { $0 != header.tableRange }
        if others.contains(where: { $0.overlaps(wanted) }) {
            try moveTable(to: blocks, bytes)
        } else {
            try exclude(wanted)
            try vacate(wanted)
            var longer = table
            longer.resize(to: blocks, filler: Vhd.unallocated)
            try replaceTable(longer)
        }
    }

    /// Moves the table to the end of the file if other descriptions are behind it.
    private mutating func moveTable(to blocks: Int, _ bytes: Int) throws(BlockError) {
        let place = nextFree
        if place + bytes > footerOffset ?? 0 { try moveFooter(to: place + bytes) }
        nextFree = place + bytes
        let filler = [UInt32](repeating: Vhd.unallocated, count: blocks - table.count)
        try replaceTable(BlockTable(entries: table.entries + filler, offset: place, isBigEndian: true))
    }

    /// Writes the longer table. After a failure its space stays free: the file may have either header, so the
    /// old one is written again before any other change.
    private mutating func replaceTable(_ longer: BlockTable) throws(BlockError) {
        var longer = longer
        try longer.write(to: file)
        try file.flush()
        let before = header
        header.setTable(offset: longer.offset, blocks: longer.count)
        do throws(BlockError) { try writeHeader() } catch {
            header = before
            throw error
        }
        table = longer
    }

    /// Moves the footer behind `range`, and excludes the range from new space until the caller uses it.
    private mutating func exclude(_ range: Range<Int>) throws(BlockError) {
        spare = VhdSpareBlocks()
        nextFree = max(nextFree, range.upperBound)
        if nextFree > footerOffset ?? 0 { try moveFooter(to: nextFree) }
    }

    // MARK: Giving back

    /// The stored blocks, from the end of the file to its start.
    private func storedBlocks() -> [UInt32] {
        var stored: [UInt32] = []
        stored.reserveCapacity(allocatedCount)
        for block in 0..<table.count where table[block] != Vhd.unallocated { stored.append(UInt32(block)) }
        stored.sort { table[Int($0)] > table[Int($1)] }
        return stored
    }

    /// Moves the last blocks into gaps, and cuts the file. The order of writes: copies, a flush, the table, a
    /// flush, the footer at the new end, a flush, the length of the file.
    mutating func closeGaps() throws(BlockError) {
        try commit()
        var survey = try survey()
        if survey.findings.count == 0, survey.spareCount > 0 {
            var free = VhdSpareBlocks(gaps: survey.gaps)
            for block in storedBlocks() {
                guard let target = free.take(header), let source = place(of: Int(block)), target < source
                else { break }
                try move(Int(block), to: UInt32(target / Vhd.sectorBytes))
            }
            try commit()
            survey = try self.survey()
        }
        adopt(survey)
        trim()
    }
}

extension VhdDriver: Emptying {
    /// Clears the table, the only reference to blocks, and then cuts the file.
    ///
    /// - Throws: `unsupported` for a fixed disk; `noSpace`, `io`.
    public func makeEmpty() throws(BlockError) {
        guard isDynamic else {
            throw BlockError(.unsupported, "A fixed VHD image cannot be emptied", path: file.filename)
        }
        try session.exclusively { (image) throws(BlockError) in try image.dynamic?.makeEmpty() }
    }
}

extension VhdState {
    fileprivate mutating func makeEmpty() throws(BlockError) {
        try commit()
        for block in 0..<table.count { unlink(block) }
        try commit()
        adopt(try survey())
        trim()
    }
}
