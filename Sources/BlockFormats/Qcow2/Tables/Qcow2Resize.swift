import BlockCore

extension Qcow2Driver: Resizable {
    /// Order of writes when growing: old data that the new space would show is overwritten, durably; then the
    /// header gets the size.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        try checkSize(virtualSize)
        let before = self.virtualSize
        try exclusively { tables throws(BlockError) in try tables.beginBitmapResize(to: virtualSize) }
        defer { metadata.withLock { $0.endBitmapResize() } }
        guard virtualSize > before else {
            return try exclusively { tables throws(BlockError) in try tables.shrink(to: virtualSize) }
        }
        try exclusively { tables throws(BlockError) in try tables.makeRoom(for: virtualSize) }
        try guest.clearTail(
            before..<min(virtualSize, before.roundedUp(to: layout.clusterSize) ?? virtualSize))
        try guest.hideBacking(before..<virtualSize)
        try growData(before..<virtualSize, preallocation)
        try exclusively { tables throws(BlockError) in
            try tables.commit()
            try tables.writeSize(virtualSize)
            // A raw data file has every cluster allocated.
            let mode = preallocation == .off && tables.header.keepsDataFileRaw ? .metadata : preallocation
            guard mode != .off else { return }
            try tables.preallocateGrowth(before..<virtualSize, mode)
        }
        if preallocation != .off { try allocateLastCluster(before..<virtualSize, guest) }
    }

    /// Allocates the former last cluster, if the disk ended inside it: the first bytes of `added` lie in it.
    private func allocateLastCluster(_ added: Range<Int>, _ guest: GuestAccess) throws(BlockError) {
        let end = added.lowerBound.roundedUp(to: layout.clusterSize) ?? added.upperBound
        let count = min(end, added.upperBound) - added.lowerBound
        guard count > 0 else { return }
        try guest.write([UInt8](repeating: 0, count: count).span.bytes, at: added.lowerBound)
        try exclusively { tables throws(BlockError) in try tables.commit() }
    }

    /// Makes the data file as long as the disk, with zeroes in the new part.
    private func growData(_ added: Range<Int>, _ preallocation: Preallocation) throws(BlockError) {
        guard data.isExternal else { return }
        let stale = added.clamped(to: 0..<max(0, try data.node.length()))
        if !stale.isEmpty {
            try data.writeZeroes(at: stale.lowerBound, count: stale.count, guest: stale.lowerBound)
        }
        guard stale.upperBound < added.upperBound else { return }
        let mode = preallocation == .metadata ? .off : preallocation
        try data.node.resize(to: added.upperBound, preallocation: mode)
        try data.node.flush()
    }

    private func checkSize(_ size: Int) throws(BlockError) {
        guard size % Qcow2.sectorBytes == 0 else {
            throw BlockError(.invalidArgument, "The new size must be a multiple of 512", path: file.filename)
        }
        guard size <= Qcow2.Limit.virtualSize,
            layout.l1Entries(forVirtualSize: size) <= Qcow2.Limit.l1TableBytes / 8
        else { throw BlockError(.limit, "The image size is too large", path: file.filename) }
        let hasSnapshots = metadata.withLock { $0.header.snapshotCount > 0 }
        guard layout.version >= 3 || !hasSnapshots else {
            throw BlockError(.unsupported, "Can't resize a v2 image which has snapshots", path: file.filename)
        }
    }
}

extension Qcow2State {
    /// Extends the tables to `size`, and unmaps clusters past the old end, which an interrupted shrinking or
    /// another program left. A longer L1 table is written to a new place, durably, before the header refers
    /// to it.
    fileprivate func makeRoom(for size: Int) throws(BlockError) {
        try protectMetadata()
        try commit()
        let end = header.virtualSize.roundedUp(to: layout.clusterSize) ?? header.virtualSize
        try unmap(end..<max(end, l1.count * layout.guestBytesPerL2Table))
        savedStateBytes = 0
        let needed = layout.l1Entries(forVirtualSize: size)
        if needed > l1.count {
            try moveL1(to: l1 + [UInt64](repeating: 0, count: needed - l1.count))
        }
        try commit()
    }

    /// Makes whole guest clusters unallocated, and releases their host clusters.
    private func unmap(_ range: Range<Int>) throws(BlockError) {
        var guest = range.lowerBound
        while guest < range.upperBound {
            if try l2TableOffset(GuestOffset(guest)) == nil {
                let run = unmappedRun(GuestOffset(guest), limit: range.upperBound - guest)
                guest = run >= range.upperBound - guest ? range.upperBound : guest + run
                continue
            }
            let old = try entry(at: GuestOffset(guest))
            if old != .unallocated {
                try setEntry(at: GuestOffset(guest), to: .unallocated)
                release(old, discards: true)
                if hasTooManyFrees { try commit() }
            }
            guest += layout.clusterSize
        }
    }

    fileprivate func writeSize(_ size: Int) throws(BlockError) {
        // Snapshots without a recorded size would seem to have the new one.
        try completeSnapshotTable()
        let before = header.virtualSize
        header.virtualSize = size
        do throws(BlockError) { try writeHeaderFields() } catch {
            header.virtualSize = before
            throw error
        }
        try barrier()
    }

    /// Order of writes:
    /// 1. The header gets the smaller size: a crash leaves data past the end, which is leaked space at worst.
    /// 2. The entries past the end are cleared; a barrier.
    /// 3. The clusters that they referred to are freed.
    fileprivate func shrink(to size: Int) throws(BlockError) {
        try commit()
        let oldSize = header.virtualSize
        try writeSize(size)
        let firstCluster = size.roundedUp(to: layout.clusterSize) ?? size
        // Saved machine state is dropped too, because its place follows from the size.
        let mapped = l1.count * layout.guestBytesPerL2Table
        try unmap(firstCluster..<max(firstCluster, mapped))
        savedStateBytes = 0
        try clearTail(size, upTo: min(firstCluster, oldSize))
        try commit()
        try dropTables(from: firstCluster)
        try commit()
        try dropEmptyRefcountBlocks()
        try truncateFile()
        if data.isExternal, try data.node.length() > size { try truncate(data.node, to: size) }
    }

    private func truncate(_ node: BlockNode, to length: Int) throws(BlockError) {
        do throws(BlockError) { try node.resize(to: length) } catch {
            // A device keeps its length; the space behind the image is harmless.
            if error.kind != .unsupported { throw error }
        }
    }

    /// Zeroes the last cluster past the new end: that part must read as zero if the disk grows again.
    private func clearTail(_ size: Int, upTo end: Int) throws(BlockError) {
        guard size < end else { return }
        let entry = try entry(at: GuestOffset(size))
        guard entry.kind(layout) == .data, entry.isCopied else { return }
        if !data.isExternal { try checkGuestClusters(entry.hostOffset, count: 1) }
        let inside = size & (layout.clusterSize - 1)
        try data.writeZeroes(at: entry.hostOffset.bytes + inside, count: end - size, guest: size, flags: [])
        hasUnflushedWrites = true
    }

    /// Frees the L2 tables that map only space past the end, once no L1 entry refers to them.
    private func dropTables(from guest: Int) throws(BlockError) {
        let span = layout.guestBytesPerL2Table
        let first = guest / span + (guest % span == 0 ? 0 : 1)
        var dropped: [HostCluster] = []
        for index in first..<max(first, l1.count) where l1[index] & L2Entry.offsetMask != 0 {
            guard let table = try checkedTable(l1[index], index) else { continue }
            setL1(index, to: 0)
            dropped.append(layout.cluster(at: table))
        }
        if dropped.isEmpty { return }
        file.emit(.l1ShrinkWrite)
        try commit()
        file.emit(.l1ShrinkFree)
        for cluster in dropped { release(cluster, count: 1, discards: true) }
    }

    /// Truncates the file behind the last cluster in use.
    private func truncateFile() throws(BlockError) {
        try protectMetadata()
        let store = try refcounts()
        let length = try file.length()
        var used = layout.endCluster(ofFile: length)
        while used > HostCluster(0) {
            guard store.hasBlock(for: used - 1) else {
                used = layout.firstCluster(ofBlock: layout.refcountBlock(of: used - 1))
                continue
            }
            guard try store.refcount(of: used - 1) == 0 else { break }
            used = used - 1
        }
        // No metadata with a refcount of zero may lie in the part that is cut off.
        if let lost = try lastMetadata(), lost >= used {
            throw condemn("Cluster \(lost) holds metadata and is not counted")
        }
        let end = layout.offset(of: used).bytes
        if end < length { try truncate(file, to: end) }
    }

    /// Shortens the file of an image that maps nothing any more; the tables that are left move to its
    /// beginning.
    fileprivate func shortenEmptied() throws(BlockError) {
        try moveL1(to: l1)
        try commit()
        try dropEmptyRefcountBlocks()
        try truncateFile()
    }

    /// Frees refcount blocks that count nothing any more.
    private func dropEmptyRefcountBlocks() throws(BlockError) {
        try protectMetadata()
        try refcounts().dropEmptyBlocks()
        protection = nil
        try commit()
    }

    /// Allocates the added guest range.
    fileprivate func preallocateGrowth(_ guest: Range<Int>, _ mode: Preallocation) throws(BlockError) {
        let first = guest.lowerBound.roundedUp(to: layout.clusterSize) ?? guest.upperBound
        guard first < guest.upperBound else { return }
        try preallocate(first..<guest.upperBound, mode)
        try commit()
    }
}

extension Qcow2Driver: Emptying {
    /// Makes every cluster of this layer unallocated.
    ///
    /// Order of writes:
    /// 1. An empty L1 table in a new place; a barrier.
    /// 2. The header that refers to it; a barrier.
    /// 3. The clusters that the old table referred to are released; a barrier.
    /// 4. The file is truncated behind the last cluster in use. Without snapshots that removes nearly all of
    ///    it, so the free clusters that are left become holes only after it.
    public func makeEmpty() throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            try tables.commit()
            let old = tables.l1
            let size = tables.header.virtualSize
            if tables.header.keepsDataFileRaw { try data.writeZeroes(at: 0, count: size, guest: 0) }
            tables.isBeingEmptied = tables.header.snapshotCount == 0
            defer { tables.isBeingEmptied = false }
            try tables.moveL1(to: [UInt64](repeating: 0, count: old.count))
            try tables.unshareClusters(of: old)
            try tables.commit()
            try tables.shortenEmptied()
            if tables.isBeingEmptied, tables.passesDiscards.ofSnapshots { try tables.punchAllFree() }
            let discards = discardUnmaps && tables.passesDiscards.ofGuest != false
            if data.isExternal && discards { try? data.discard(at: 0, count: size) }
        }
    }
}
