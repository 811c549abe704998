import BlockCore

extension ParallelsDriver: Resizable {
    /// Changes the size of the disk.
    ///
    /// The order of writes when growing, with a flush after each step:
    ///
    /// 1. copies of the clusters that a longer table will overwrite, and then their entries;
    /// 2. the new entries;
    /// 3. the header, atomically, with the new number of entries and the new size. Over a longer backing file
    ///    it still has the old size;
    /// 4. over a longer backing file: zeroes that hide its bytes, then their entries, then the header with
    ///    the new size.
    ///
    /// When shrinking, the header is first; after a flush the clusters behind the new end are free.
    ///
    /// - Throws: `unsupported`, `invalidArgument`, `limit`, `corrupt`, `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        guard virtualSize % Parallels.sectorBytes == 0 else {
            throw BlockError(.invalidArgument, "The new size must be a multiple of 512")
        }
        let before = self.virtualSize
        if virtualSize == before { return }
        try session.exclusively { (state) throws(BlockError) in
            guard state.isSound else { throw BlockError(.corrupt, "The image was opened to be checked") }
            try state.checkLimits(virtualSize)
            try state.beginChanges()
            try state.commit()
            if virtualSize < before { return try state.shrink(to: virtualSize) }
            let hides = guest.hasBacking(in: before..<virtualSize)
            try state.grow(to: hides ? before : virtualSize, entriesFor: virtualSize)
        }
        if virtualSize > before { try finishGrowth(before..<virtualSize, guest) }
        try session.exclusively { (state) throws(BlockError) in try state.resizeBitmaps() }
    }

    /// Hides the bytes of a longer backing file with zeroes, if necessary, and then writes the new size.
    private func finishGrowth(_ added: Range<Int>, _ guest: GuestAccess) throws(BlockError) {
        guard virtualSize < added.upperBound else { return }
        let end = added.lowerBound.roundedUp(to: clusterBytes) ?? added.upperBound
        try guest.clearTail(added.lowerBound..<min(end, added.upperBound))
        try guest.hideBacking(added)
        try session.exclusively { (state) throws(BlockError) in
            try state.commit()
            try state.setSize(added.upperBound)
        }
    }
}

extension ParallelsState {
    fileprivate func checkLimits(_ virtualSize: Int) throws(BlockError) {
        guard virtualSize <= Parallels.Limit.virtualSize,
            header.entries(forSize: virtualSize) <= Parallels.Limit.entries
        else { throw BlockError(.limit, "Image size is too large for this cluster size") }
        guard header.kind == .clusters || virtualSize / Parallels.sectorBytes <= Int(UInt32.max) else {
            throw BlockError(.limit, "Images of the kind 'WithoutFreeSpace' have at most 2 TiB")
        }
        try checkBitmapsFit(diskBytes: virtualSize)
    }

    fileprivate mutating func resizeBitmaps() throws(BlockError) {
        for bitmap in features.bitmaps { try bitmap.bits?.resize(to: header.virtualSize) }
    }

    /// Extends the table for a disk of that size.
    mutating func grow(to virtualSize: Int) throws(BlockError) {
        try grow(to: virtualSize, entriesFor: virtualSize)
    }

    /// Writes a new size, and extends the table for a disk of `larger` bytes.
    fileprivate mutating func grow(to virtualSize: Int, entriesFor larger: Int) throws(BlockError) {
        try hideWhatIsBehindTheEnd()
        let count = max(table.count, header.entries(forSize: larger))
        let shift = clustersInTheWay(ofTableWith: count)
        let start = layout.dataStart + shift * layout.clusterBytes
        guard start / Parallels.sectorBytes <= Int(UInt32.max) else {
            throw BlockError(.limit, "The block allocation table cannot grow any more", path: file.filename)
        }
        if shift > 0 { try vacate(shift) }
        let before = (header: header, count: table.count)
        do throws(BlockError) {
            table.resize(to: count, filler: Parallels.unallocated)
            try table.write(to: file)
            try file.flush()
            try writeHeader(virtualSize, entries: count, dataStart: start)
        } catch {
            restore(before.header, entries: before.count)
            throw error
        }
        if shift > 0 { space = try survey().space }
    }

    /// Writes a new size, for which the table is long enough.
    fileprivate mutating func setSize(_ virtualSize: Int) throws(BlockError) {
        let before = header
        do throws(BlockError) {
            try writeHeader(virtualSize, entries: table.count, dataStart: layout.dataStart)
        } catch {
            restore(before, entries: table.count)
            throw error
        }
    }

    fileprivate mutating func shrink(to virtualSize: Int) throws(BlockError) {
        let before = (header: header, count: table.count)
        let count = header.entries(forSize: virtualSize)
        do throws(BlockError) {
            try writeHeader(virtualSize, entries: count, dataStart: layout.dataStart)
        } catch {
            restore(before.header, entries: before.count)
            throw error
        }
        for block in count..<table.count where table[block] != Parallels.unallocated { unlink(block) }
        table.resize(to: count, filler: Parallels.unallocated)
        releaseFreed()
    }

    private mutating func writeHeader(
        _ virtualSize: Int, entries: Int, dataStart: Int
    ) throws(BlockError) {
        header.virtualSize = virtualSize
        header.entryCount = entries
        header.dataSector = dataStart / Parallels.sectorBytes
        header.setCylinders()
        try writeHeader()
        layout = ParallelsLayout(
            clusterBytes: layout.clusterBytes, entryUnit: layout.entryUnit, tableEnd: header.tableEnd,
            dataStart: dataStart, headerIsWrong: false)
    }

    /// Called after a failure: the file may have either header, so the old one is written again before any
    /// other change. Vacated clusters stay taken, because the new header's table may lie there.
    private mutating func restore(_ header: ParallelsHeader, entries: Int) {
        self.header = header
        table.resize(to: entries, filler: Parallels.unallocated)
        headerIsUncertain = true
    }

    /// Clears the old data behind the end of the disk, which must not reappear when it grows.
    private mutating func hideWhatIsBehindTheEnd() throws(BlockError) {
        let size = header.virtualSize
        let block = size / layout.clusterBytes
        let inside = size % layout.clusterBytes
        if inside > 0, block < table.count, table[block] != Parallels.unallocated {
            try file.writeZeroes(
                at: layout.hostOffset(table[block]) + inside, count: layout.clusterBytes - inside)
            try file.flush()
        }
        let used = min(header.entries(forSize: size), table.count)
        for block in used..<table.count where table[block] != Parallels.unallocated { unlink(block) }
        try commit()
    }

    /// The number of clusters of the data area that a longer table overlaps.
    private func clustersInTheWay(ofTableWith entries: Int) -> Int {
        let end = Parallels.headerBytes + entries * Parallels.entryBytes
        guard end > layout.dataStart else { return 0 }
        return (end - layout.dataStart).dividedRoundingUp(by: layout.clusterBytes)
    }

    /// Moves the guest's data out of the first clusters of the data area, which are not granted meanwhile.
    private mutating func vacate(_ shift: Int) throws(BlockError) {
        guard !features.keepsUnknown else {
            throw BlockError(
                .unsupported, "The image has a feature that Platter does not know, and cannot grow as far")
        }
        space.mark(0..<shift)
        try vacate(layout.dataStart..<layout.hostOffset(ofCluster: shift))
    }
}
