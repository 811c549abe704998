import BlockCore

extension QcowDriver: Resizable {
    /// Changes the size of the disk.
    ///
    /// The order of writes when growing, with a flush after each step:
    ///
    /// 1. stale entries behind the end are cleared;
    /// 2. a longer L1 table, and then the header that refers to it;
    /// 3. zeroes over old data and backing bytes in the new space;
    /// 4. the header with the new size.
    ///
    /// When shrinking, the header with the new size is first; the space behind it is free after that.
    ///
    /// - Throws: `unsupported` for a preallocation; `invalidArgument`, `limit`, `corrupt`, `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        let before = self.virtualSize
        let moved = try session.exclusively { (tables) throws(BlockError) -> Bool in
            try tables.checkSize(virtualSize)
            try tables.commit()
            if virtualSize <= before { return true }
            return try tables.makeRoom(for: virtualSize)
        }
        if virtualSize > before {
            let cluster = before.roundedUp(to: clusterBytes) ?? before
            try guest.clearTail(before..<min(virtualSize, cluster))
            try guest.hideBacking(before..<virtualSize)
        }
        try session.exclusively { (tables) throws(BlockError) in
            try tables.commit()
            try tables.setSize(virtualSize)
            if moved { try tables.closeGaps() }
        }
    }
}

extension QcowState {
    fileprivate func checkSize(_ size: Int) throws(BlockError) {
        guard size % Qcow.sectorBytes == 0, size > 0 else {
            throw BlockError(
                .invalidArgument, "The new size must be a multiple of 512, and not 0", path: file.filename)
        }
        guard header.l1Entries(for: size) <= Qcow.Limit.l1Entries else {
            throw BlockError(.limit, "Image too large", path: file.filename)
        }
    }

    fileprivate func setSize(_ size: Int) throws(BlockError) {
        var changed = header
        changed.storedSize = size
        try writeHeader(changed)
        useL1(count: header.l1Entries)
        // A smaller disk has fewer tables.
        try prepareForWriting()
    }

    /// Extends the L1 table to map `size` bytes. It grows in place, and the data behind it moves, if
    /// possible.
    ///
    /// - Returns: whether the L1 table moved.
    fileprivate func makeRoom(for size: Int) throws(BlockError) -> Bool {
        try clearStaleEntries()
        let needed = header.l1Entries(for: size)
        guard needed > l1Count else { return false }
        let added = l1Range.upperBound..<header.l1Offset + needed * 8
        if try evacuate(added) {
            try file.writeZeroes(at: added.lowerBound, count: added.count)
            try file.flush()
            end = max(end, added.upperBound)
            useL1(count: needed)
            return false
        }
        try moveL1(count: needed)
        return true
    }

    /// Clears the entries behind the end of the disk, which may map data of a formerly larger disk. That can
    /// be a whole table: the stored size may be less than a sector larger than the visible size.
    private func clearStaleEntries() throws(BlockError) {
        let start = header.virtualSize.roundedUp(to: header.clusterBytes) ?? header.virtualSize
        guard let (slot, first, count) = try entries(at: start, limit: header.entriesPerTable),
            (0..<count).contains(where: { entry(slot, first + $0) != 0 })
        else { return }
        try setEntries(at: start, count: count) { _ in 0 }
        try commit()
    }

    /// Copies the L1 table, extended with entries of 0, to the end of the file.
    private func moveL1(count: Int) throws(BlockError) {
        let old = l1Range
        let place = try allocate((count * 8 - 1) >> header.clusterBits + 1)
        do throws(BlockError) {
            try file.writeZeroes(at: place, count: end - place)
            try file.copyInside(old, to: place)
            try file.flush()
        } catch {
            giveBack(place..<end)
            throw error
        }
        var changed = header
        changed.l1Offset = place
        try writeHeader(changed)
        useL1(count: count)
    }
}
