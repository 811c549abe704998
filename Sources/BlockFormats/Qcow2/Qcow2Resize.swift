import BlockCore

extension Qcow2Driver: Resizable {
    public func resize(to virtualSize: Int, preallocation: Preallocation) throws(BlockError) {
        guard let size = virtualSize.roundedUp(to: Qcow2.sectorBytes), size == virtualSize else {
            throw BlockError(.invalidArgument, "The new size must be a multiple of 512", path: file.filename)
        }
        guard size <= Qcow2.Limit.virtualSize,
            layout.l1Entries(forVirtualSize: size) <= Qcow2.Limit.l1TableBytes / 8
        else { throw BlockError(.limit, "The image size is too large", path: file.filename) }
        try exclusively { tables throws(BlockError) in
            let old = tables.header.virtualSize
            guard layout.version >= 3 || tables.header.snapshotCount == 0 else {
                throw BlockError(
                    .unsupported, "Can't resize a v2 image which has snapshots", path: file.filename)
            }
            if size < old { try tables.shrink(to: size) } else { try tables.grow(to: size) }
            setVirtualSize(size)
            guard preallocation != .off, size > old else { return }
            try tables.preallocateGrowth(old..<size, preallocation)
        }
    }
}

extension Qcow2Metadata {
    /// Order of writes: a longer L1 table in a new place, a barrier, then the header with the place and the
    /// size.
    fileprivate func grow(to size: Int) throws(BlockError) {
        try commit()
        let needed = layout.l1Entries(forVirtualSize: size)
        if needed > l1.count {
            let longer = l1 + [UInt64](repeating: 0, count: needed - l1.count)
            try moveL1(to: longer) { $0.virtualSize = size }
            return try commit()
        }
        try writeSize(size)
    }

    private func writeSize(_ size: Int) throws(BlockError) {
        let before = header.virtualSize
        header.virtualSize = size
        do throws(BlockError) { try writeHeaderFields() } catch {
            header.virtualSize = before
            throw error
        }
        try barrier()
    }

    /// Order of writes: the header gets the smaller size first, so a crash leaves data past the end, which is
    /// leaked space at worst; then entries go, then, after a barrier, what they referred to.
    fileprivate func shrink(to size: Int) throws(BlockError) {
        try commit()
        let oldSize = header.virtualSize
        try writeSize(size)
        let firstCluster = size.roundedUp(to: layout.clusterSize) ?? size
        var guest = firstCluster
        while guest < oldSize {
            if try l2TableOffset(guest) == nil {
                let run = unmappedRun(guest)
                guest = run >= oldSize - guest ? oldSize : guest + run
                continue
            }
            let old = try entry(at: guest)
            if old != .unallocated {
                try setEntry(at: guest, to: .unallocated)
                release(old, discards: true)
                if hasTooManyFrees { try commit() }
            }
            guest += layout.clusterSize
        }
        try clearTail(size, upTo: min(firstCluster, oldSize))
        try commit()
        try dropTables(from: firstCluster)
        try commit()
        try truncateFile()
    }

    /// What lies in the last cluster past the new end must read as zero should the disk grow again.
    private func clearTail(_ size: Int, upTo end: Int) throws(BlockError) {
        guard size < end else { return }
        let entry = try entry(at: size)
        guard entry.kind(version: layout.version) == .data, entry.isCopied else { return }
        let inside = size & (layout.clusterSize - 1)
        try file.writeZeroes(at: entry.hostOffset + inside, count: end - size, flags: [])
        hasUnflushedWrites = true
    }

    /// L2 tables that map nothing but space past the end are freed.
    private func dropTables(from guest: Int) throws(BlockError) {
        let span = layout.guestBytesPerL2Table
        let first = guest / span + (guest % span == 0 ? 0 : 1)
        for index in first..<max(first, l1.count) where l1[index] & L2Entry.offsetMask != 0 {
            guard let table = try checkedTable(l1[index], index) else { continue }
            setL1(index, to: 0)
            release(table >> layout.clusterBits, count: 1, discards: true)
        }
    }

    /// Cuts off the file behind the last cluster in use.
    private func truncateFile() throws(BlockError) {
        let store = try refcounts()
        let length = try file.length()
        var clusters = layout.clusters(length)
        while clusters > 0, try store.refcount(of: clusters - 1) == 0 { clusters -= 1 }
        let end = clusters << layout.clusterBits
        if end < length { try file.resize(to: end) }
    }

    /// Allocates what was added; the file follows.
    fileprivate func preallocateGrowth(_ guest: Range<Int>, _ mode: Preallocation) throws(BlockError) {
        let store = try refcounts()
        let before = max(try file.length(), store.virginCluster << layout.clusterBits)
        let first = guest.lowerBound.roundedUp(to: layout.clusterSize) ?? guest.upperBound
        guard first < guest.upperBound else { return }
        try preallocate(first..<guest.upperBound)
        try commit()
        let end = store.virginCluster << layout.clusterBits
        guard end > (try file.length()) else { return }
        if mode == .metadata { return try file.resize(to: end) }
        if try file.length() < before { try file.resize(to: before) }
        try file.resize(to: end, preallocation: mode)
        try barrier()
    }
}

extension Qcow2Driver: Emptying {
    /// Order of writes: an empty L1 table in a new place, a barrier, the header, a barrier; then what the old
    /// table referred to is released.
    public func makeEmpty() throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            try tables.commit()
            let old = tables.l1
            try tables.moveL1(to: [UInt64](repeating: 0, count: old.count))
            try tables.unshareClusters(of: old)
            try tables.commit()
        }
    }
}
