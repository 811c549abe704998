import BlockCore

extension Qcow2State {
    /// The bytes of new L2 tables that are collected for one write.
    private static let tableRunBytes = 2 << 20

    /// Allocates all clusters of a guest range that is unallocated and reads as zeroes.
    ///
    /// Order of writes: the file is extended to the clusters before entries refer to them.
    /// - Parameters:
    ///   - mode: how their space in the file is allocated.
    ///   - fileIsZero: whether the file reads as zeroes everywhere but in its tables.
    func preallocate(
        _ guest: Range<Int>, _ mode: Preallocation, fileIsZero: Bool = false
    ) throws(BlockError) {
        var offset = layout.roundedDown(guest.lowerBound)
        let whole = guest.upperBound.roundedUp(to: layout.clusterSize) ?? guest.upperBound
        // A data file ends with the disk.
        let end = data.isExternal ? guest.upperBound : whole
        while offset < guest.upperBound {
            let tables = missingTables(offset..<end)
            if tables > 0, try lastMetadata() ?? HostCluster(0) < refcounts().virginCluster {
                let part = offset..<min(end, offset + tables * layout.guestBytesPerL2Table)
                try preallocate(tables: tables, for: part, mode, fileIsZero: fileIsZero)
                offset = part.upperBound
            } else {
                offset = try preallocateSome(offset..<end, mode, fileIsZero: fileIsZero)
            }
        }
    }

    /// Whether entries of preallocated clusters get the zero flag: zeroes in an encrypted file would decrypt
    /// to noise.
    private var marksPreallocated: Bool { header.isEncrypted && layout.version >= 3 }

    /// Allocates the first clusters of a range, all in one L2 table, new or existing.
    ///
    /// - Returns: the guest offset behind them.
    private func preallocateSome(
        _ guest: Range<Int>, _ mode: Preallocation, fileIsZero: Bool
    ) throws(BlockError) -> Int {
        var grant = try grant(guest, over: 0)
        guard grant.isNew else { return grant.guest.upperBound }
        let mustClear = header.isEncrypted ? !marksPreallocated : !fileIsZero && !grant.isVirgin
        do throws(BlockError) {
            try prepare(grant.units, at: grant.hostOffset, mode, clears: mustClear)
            if layout.hasSubclusters {
                try linkPlaces(&grant)
            } else {
                try link(&grant, asZero: marksPreallocated)
            }
        } catch {
            giveBack(grant)
            throw error
        }
        return grant.guest.upperBound
    }

    /// Extends the file to the clusters of a guest range, and zeroes them if `clears` is set.
    private func prepare(
        _ guest: Range<Int>, at hostOffset: Int, _ mode: Preallocation, clears: Bool
    ) throws(BlockError) {
        // With subclusters nothing needs zeroes: all of them stay unallocated.
        if clears && !layout.hasSubclusters {
            try data.writeZeroes(at: hostOffset, count: guest.count, guest: guest.lowerBound)
        }
        let end = hostOffset + guest.count
        let length = try data.node.length()
        if hostOffset < length, mode == .falloc || mode == .full {
            // Refcount blocks for the clusters may lie behind them, so the file may be longer already.
            try data.node.fillHoles(in: hostOffset..<min(end, length))
        }
        if length < end {
            try data.node.resize(to: end, preallocation: mode == .metadata ? .off : mode)
        }
    }

    // MARK: Whole tables

    /// The number of adjacent missing L2 tables at the start of a guest range; 0 where the range starts
    /// inside a table.
    private func missingTables(_ guest: Range<Int>) -> Int {
        let span = layout.guestBytesPerL2Table
        guard guest.lowerBound % span == 0 else { return 0 }
        let first = guest.lowerBound / span
        let end = min(l1.count, layout.l1Entries(forVirtualSize: guest.upperBound))
        var index = first
        while index < end, l1[index] & L2Entry.offsetMask == 0 { index += 1 }
        return index - first
    }

    /// Allocates a range whose L2 tables are missing: the tables in one run, the clusters in another one
    /// behind, so that the entries are consecutive.
    ///
    /// Order of writes: clusters and tables, then, by the next commit, refcounts, a barrier, the L1 entries.
    private func preallocate(
        tables: Int, for guest: Range<Int>, _ mode: Preallocation, fileIsZero: Bool
    ) throws(BlockError) {
        try beginLazyRefcounts()
        let count = tables + (data.isExternal ? 0 : layout.clusters(guest.count))
        let isFresh = fileIsZero || (!data.isExternal && data.isZeroInitialised)
        let clears = header.isEncrypted ? !marksPreallocated : !isFresh
        let index = guest.lowerBound / layout.guestBytesPerL2Table
        // The space of a new file may be allocated already.
        let end: NewClusters = fileIsZero ? .behindCounted : .behindEnd
        let start = try fillingNewClusters(count, end) { start throws(BlockError) in
            try reserveL1(index..<index + tables)
            let clusters = data.isExternal ? guest.lowerBound : start + tables << layout.clusterBits
            try prepare(guest, at: clusters, mode, clears: clears)
            let size = tables << layout.clusterBits
            try writeRun(layout.clusters(guest.count), from: clusters, to: start..<start + size)
        }
        for number in 0..<tables {
            setL1(index + number, to: UInt64(start + number << layout.clusterBits) | L2Entry.copiedFlag)
        }
    }

    /// Fills L2 tables with entries for adjacent clusters of the file.
    private func writeRun(_ entries: Int, from cluster: Int, to tables: Range<Int>) throws(BlockError) {
        file.emit(.l2AllocateWrite)
        l2Cache.discard(tables)
        let buffer = AlignedBuffer(count: min(tables.count, Self.tableRunBytes))
        let flag = marksPreallocated && !layout.hasSubclusters ? L2Entry.zeroFlag : 0
        for done in stride(from: 0, to: tables.count, by: buffer.count) {
            let count = min(buffer.count, tables.count - done)
            var bytes = buffer.mutableBytes(0..<count)
            let first = done / layout.l2EntryBytes
            let raw = L2Entry.data(at: HostOffset(cluster) + first << layout.clusterBits).raw | flag
            layout.store(run: min(max(0, entries - first), count / layout.l2EntryBytes), raw, in: &bytes)
            try file.write(buffer.bytes(0..<count), at: tables.lowerBound + done)
        }
        hasUnflushedWrites = true
    }
}

extension Qcow2Layout {
    /// Stores `count` entries for adjacent clusters at the start of a table, and unallocated ones behind
    /// them.
    fileprivate func store(run count: Int, _ first: UInt64, in bytes: inout MutableRawSpan) {
        if hasSubclusters || count * l2EntryBytes < bytes.byteCount { bytes.fill() }
        let (step, unit) = (UInt64(clusterSize), l2EntryBytes)
        var raw = first
        for index in 0..<count {
            bytes.storeBigEndian(raw, at: index &* unit)
            raw &+= step
        }
    }
}
