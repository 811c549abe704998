import BlockCore

extension QedDriver: Resizable {
    /// The order of writes: entries and bytes behind the old end are cleared, a flush, then the header.
    /// Images do not shrink: the format knows no free clusters, so that what is cut off would be lost space.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, old: any GuestReader
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        try exclusively { (tables) throws(BlockError) in
            let most = QedHeader.largestDisk(
                clusterBytes: clusterBytes, tableClusters: tables.header.tableClusters)
            guard virtualSize % Qed.sectorBytes == 0, virtualSize <= most else {
                throw BlockError(
                    .invalidArgument, "The size must be a multiple of 512 bytes and at most \(most)")
            }
            let before = tables.header.virtualSize
            guard virtualSize >= before else {
                throw BlockError(.unsupported, "Shrinking images is not supported by format 'qed'")
            }
            try tables.clear(from: before, to: virtualSize)
            tables.header.virtualSize = virtualSize
            do throws(BlockError) {
                try tables.writeHeader()
                try file.flush()
            } catch {
                tables.header.virtualSize = before
                throw error
            }
        }
        setVirtualSize(virtualSize)
    }
}

extension QedDriver: Emptying {
    /// Only the L1 table refers to anything: when it is zero, the rest of the file can go.
    public func makeEmpty() throws(BlockError) {
        try exclusively { (tables) throws(BlockError) in
            try tables.commit()
            let header = tables.header
            tables.forgetTables()
            tables.l2Places = []
            try file.writeZeroes(at: header.l1Offset, count: header.tableBytes)
            try file.flush()
            let behind = header.l1Offset + header.tableBytes
            // Only where nothing of use lies behind that table.
            guard header.l1Offset == header.headerClusters * header.clusterBytes else { return }
            try file.resize(to: behind)
            try file.flush()
            tables.end = behind
        }
    }
}

extension QedTables {
    /// Clears all that a range of the disk refers to; the part of its first cluster becomes zeroes.
    fileprivate func clear(from start: Int, to stop: Int) throws(BlockError) {
        let cluster = header.clusterBytes
        try clearPart(of: start)
        guard var guest = start.roundedUp(to: cluster) else { return }
        while guest < stop {
            let rest = header.guestBytesPerTable - guest % header.guestBytesPerTable
            let wanted = (min(rest, stop - guest) - 1) / cluster + 1
            guard let (slot, first, count) = try entries(at: guest, limit: wanted) else {
                guest += rest
                continue
            }
            if (0..<count).contains(where: { entry(slot, first + $0) != 0 }) {
                try setEntries(at: guest, count: count) { _ in 0 }
            }
            guest += count * cluster
        }
        try commit()
    }

    /// The last cluster of a disk may hold bytes behind its end.
    private func clearPart(of start: Int) throws(BlockError) {
        let inside = start % header.clusterBytes
        guard inside > 0, let (slot, first, _) = try entries(at: start - inside, limit: 1) else { return }
        let entry = entry(slot, first)
        guard entry > Qed.zeroCluster else { return }
        let host = try dataOffset(entry)
        guard !isMetadata(host..<host + header.clusterBytes) else {
            throw corrupt("A data cluster lies over a table (offset \(host))", at: start)
        }
        try file.writeZeroes(at: host + inside, count: header.clusterBytes - inside)
    }
}
