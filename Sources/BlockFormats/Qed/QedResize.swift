import BlockCore

extension QedDriver: Resizable {
    /// Changes the size of the disk.
    ///
    /// The order of writes, with a flush after each step:
    ///
    /// 1. entries behind the old end are cleared;
    /// 2. zeroes over old data and backing bytes in the new space;
    /// 3. the header with the new size.
    ///
    /// Images do not shrink: the format has no free clusters, so the space behind the new end would leak.
    ///
    /// - Throws: `unsupported` for a preallocation and for shrinking; `invalidArgument`; `noSpace`, `io`,
    ///   `corrupt`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        let before = self.virtualSize
        try session.exclusively { (tables) throws(BlockError) in
            let most = QedHeader.largestDisk(
                clusterBytes: clusterBytes, tableClusters: tables.header.tableClusters)
            guard virtualSize % Qed.sectorBytes == 0, virtualSize <= most else {
                throw BlockError(
                    .invalidArgument, "The size must be a multiple of 512 bytes and at most \(most)")
            }
            guard virtualSize >= before else {
                throw BlockError(.unsupported, "Shrinking images is not supported by format 'qed'")
            }
            try tables.clearEntries(from: before)
        }
        let cluster = before.roundedUp(to: clusterBytes) ?? before
        try guest.clearTail(before..<max(before, min(virtualSize, cluster)))
        try guest.hideBacking(before..<virtualSize)
        try session.exclusively { (tables) throws(BlockError) in
            try tables.commit()
            try tables.setSize(virtualSize)
        }
    }
}

extension QedDriver: Emptying {
    /// Zeroes over the L1 table, the only reference to anything, come first; then the file is cut.
    ///
    /// - Throws: `io`, `noSpace`.
    public func makeEmpty() throws(BlockError) {
        try session.exclusively { (tables) throws(BlockError) in
            try tables.commit()
            let header = tables.header
            tables.forgetTables()
            tables.l2Places = []
            try file.writeZeroes(at: header.l1Offset, count: header.tableBytes)
            try file.flush()
            let behind = header.l1Offset + header.tableBytes
            // Cuts the file only if nothing of use lies behind that table.
            guard header.l1Offset == header.headerClusters * header.clusterBytes else { return }
            try file.resize(to: behind)
            try file.flush()
            tables.end = behind
        }
    }
}

extension QedState {
    fileprivate func setSize(_ size: Int) throws(BlockError) {
        let before = header.virtualSize
        header.virtualSize = size
        do throws(BlockError) {
            try writeHeader()
            try file.flush()
        } catch {
            header.virtualSize = before
            throw error
        }
    }

    /// Clears the entries that an interrupted growth left behind the end of the disk. Durable on return.
    fileprivate func clearEntries(from start: Int) throws(BlockError) {
        guard var guest = start.roundedUp(to: header.clusterBytes) else { return }
        while guest % header.guestBytesPerTable != 0 {
            let rest = header.guestBytesPerTable - guest % header.guestBytesPerTable
            let wanted = rest / header.clusterBytes
            guard let (slot, first, count) = try entries(at: guest, limit: wanted) else { break }
            if (0..<count).contains(where: { entry(slot, first + $0) != 0 }) {
                try setEntries(at: guest, count: count) { _ in 0 }
            }
            guest += count * header.clusterBytes
        }
        try dropTablesBehindEnd()
    }
}
