import BlockCore

extension Qcow2State {
    /// How much of new L2 tables is put together before it is written, in bytes.
    private static let tableRunBytes = 2 << 20

    /// Allocates all clusters of a guest range, which are unallocated, reading as zeroes.
    ///
    /// Order of writes: the file reaches to the clusters before entries refer to them.
    /// - Parameters:
    ///   - mode: what space the file gets for them.
    ///   - fileIsZero: the file holds zeroes everywhere but in its tables.
    func preallocate(
        _ guest: Range<Int>, _ mode: Preallocation, fileIsZero: Bool = false
    ) throws(BlockError) {
        var offset = layout.roundedDown(guest.lowerBound)
        let whole = guest.upperBound.roundedUp(to: layout.clusterSize) ?? guest.upperBound
        // A data file ends where the disk does.
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

    /// Zeroes in an encrypted file are noise to the guest: version 3 marks their clusters as zero.
    private var marksPreallocated: Bool { header.isEncrypted && layout.version >= 3 }

    /// Allocates the first clusters of a range, in a table that may be there already.
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

    /// Has the file reach to the clusters of a guest range, with zeroes in them where that is wanted.
    private func prepare(
        _ guest: Range<Int>, at hostOffset: Int, _ mode: Preallocation, clears: Bool
    ) throws(BlockError) {
        // Subclusters stay what they are, unallocated.
        if clears && !layout.hasSubclusters {
            try data.writeZeroes(at: hostOffset, count: guest.count, guest: guest.lowerBound)
        }
        let end = hostOffset + guest.count
        let length = try data.node.length()
        if hostOffset < length, mode == .falloc || mode == .full {
            // What counts the clusters may lie behind them, so that the file reaches further already.
            try data.node.fillHoles(in: hostOffset..<min(end, length))
        }
        if length < end {
            try data.node.resize(to: end, preallocation: mode == .metadata ? .off : mode)
        }
    }

    // MARK: Whole tables

    /// How many L2 tables in a row are missing at the start of a guest range; 0 inside of one.
    private func missingTables(_ guest: Range<Int>) -> Int {
        let span = layout.guestBytesPerL2Table
        guard guest.lowerBound % span == 0 else { return 0 }
        let first = guest.lowerBound / span
        let end = min(l1.count, layout.l1Entries(forVirtualSize: guest.upperBound))
        var index = first
        while index < end, l1[index] & L2Entry.offsetMask == 0 { index += 1 }
        return index - first
    }

    /// Allocates a range whose L2 tables are missing: the tables in one run, the clusters in another behind
    /// them, so that every entry follows from the one before.
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
        // A new file may have its space already.
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

    /// Fills L2 tables with entries for so many clusters that follow each other in the file.
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
    /// Stores `count` entries at the start of a table, each one cluster further than the one before, and
    /// unallocated ones behind them.
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
