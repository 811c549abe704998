import BlockCore

/// The active L1 table, and L2 tables.
extension Qcow2Surveyor {
    /// Counts the active L1 table and all below it.
    mutating func countActiveTree() throws(BlockError) {
        let header = tables.header
        let l1 = tables.l1
        if header.l1Entries > 0 { count("L1 table", header.l1Offset, header.l1Entries * 8) }
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var repeated = RepeatedTables(l1)
        for (index, entry) in l1.enumerated() where entry != 0 {
            guard let table = countedTable(entry, index) else { continue }
            // Followed once: a small file could otherwise take very long to check.
            let isFirst = repeated.isFirstUse(of: table)
            window.noteFlag(table >> layout.clusterBits, isCopied: entry & L2Entry.copiedFlag != 0)
            if !isFirst { survey.hasOverlaps = true }
            guard isFirst || !tables.data.isExternal else {
                survey.corruption(
                    "ERROR L2 table at 0x\(hex(table)) is used more than once (L1 index \(index))")
                continue
            }
            guard isFirst else { continue }
            window.times = repeated.uses(of: table)
            defer { window.times = 1 }
            var bytes = buffer.mutableBytes
            try tables.file.read(into: &bytes, at: table)
            let guest = index.multipliedReportingOverflow(by: layout.guestBytesPerL2Table)
            countTable(buffer, guest: guest.partialValue, isActive: true)
        }
    }

    /// The L2 table that an L1 entry refers to, counted; `nil` when it has none that can be followed.
    mutating func countedTable(_ entry: UInt64, _ index: Int) -> Int? {
        let table = Int(entry & L2Entry.offsetMask)
        if entry & ~(L2Entry.offsetMask | L2Entry.copiedFlag) != 0 {
            survey.corruption("ERROR found L1 entry with reserved bits set: \(hex(entry))")
        } else if table == 0 {
            survey.corruption("ERROR found L1 entry with a flag and no table: \(hex(entry))")
            survey.cannotFollow("an L1 entry has lost its table")
        }
        if table == 0 { return nil }
        guard layout.isAligned(table) else {
            survey.corruption(
                "ERROR l2_offset=\(hex(table)): Table is not cluster aligned; L1 entry corrupted")
            survey.cannotFollow("an L1 entry points nowhere")
            return nil
        }
        return count("L2 table (L1 index \(index))", table, layout.clusterSize) ? table : nil
    }

    /// Counts what the entries of an L2 table refer to.
    ///
    /// - Parameter guest: the guest offset of the first cluster.
    mutating func countTable(_ buffer: AlignedBuffer, guest: Int, isActive: Bool) {
        if tables.data.isExternal { return checkDataFileTable(buffer, guest: guest) }
        let bytes = buffer.bytes
        var expected = 0
        var next = 0
        while next < layout.entriesPerL2Table {
            let index = next
            next += 1
            let entry = layout.entry(index, of: bytes)
            if entry == .unallocated { continue }
            // Told and repaired with the flags.
            if entry.bitmap != 0, entry.bitmapProblem(layout) != nil { survey.hasWrongFlags = true }
            if entry.isCompressed {
                countCompressed(entry, isActive: isActive)
                continue
            }
            checkReservedBits(entry)
            let host = entry.hostOffset
            if host == .zero { continue }
            guard layout.isAligned(host) else {
                countUnaligned(entry, isActive, &expected)
                continue
            }
            let cluster = layout.cluster(at: host).index
            guard cluster < scope.fileClusters else {
                let size = layout.clusterSize
                survey.corruption(Qcow2CheckScope.behindEnd("data cluster", host.bytes, size))
                survey.cannotFollow("an L2 entry points nowhere")
                continue
            }
            guard isActive else {
                count(cluster..<cluster + 1)
                continue
            }
            let followers = runLength(behind: entry, index, in: bytes)
            next += followers
            countActive(cluster..<cluster + 1 + followers, entry, &expected)
        }
    }

    /// Counts a run of the disk's own clusters.
    private mutating func countActive(_ run: Range<Int>, _ entry: L2Entry, _ expected: inout Int) {
        window.countActive(run, isCopied: entry.isCopied)
        survey.reach(run.upperBound)
        survey.allocatedClusters += run.count
        if expected != 0 && entry.hostOffset.bytes != expected { survey.fragmentedClusters += 1 }
        expected = run.upperBound << layout.clusterBits
    }

    /// An entry that points into a cluster seems to have that one and the next, which nobody frees meanwhile.
    private mutating func countUnaligned(_ entry: L2Entry, _ isActive: Bool, _ expected: inout Int) {
        let host = entry.hostOffset
        let hasData = layout.hasSubclusters ? entry.allocatedSubclusters != 0 : entry.kind(layout) == .data
        survey.corruption(
            "ERROR offset=\(hex(host)): \(hasData ? "Data" : "Preallocated") cluster is not properly "
                + "aligned; L2 entry corrupted.")
        survey.cannotFollow("an L2 entry points nowhere")
        let first = layout.cluster(at: host).index
        count((first..<first + 2).clamped(to: 0..<scope.fileClusters))
        guard isActive else { return }
        survey.allocatedClusters += 1
        if expected != 0 && host.bytes != expected { survey.fragmentedClusters += 1 }
        expected = host.bytes + layout.clusterSize
    }

    /// How many entries behind a sound one of plain data continue it inside the file.
    private func runLength(behind entry: L2Entry, _ index: Int, in table: RawSpan) -> Int {
        guard !layout.hasSubclusters, entry.raw & ~scope.knownBits == 0 else { return 0 }
        let last = scope.fileClusters - 1 - layout.cluster(at: entry.hostOffset).index
        return layout.continuation(of: entry, index, in: table, limit: last)
    }

    /// Clusters of a data file are not counted, but each has its place.
    private mutating func checkDataFileTable(_ buffer: AlignedBuffer, guest: Int) {
        var end = 0
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            if entry == .unallocated { continue }
            if entry.bitmap != 0, entry.bitmapProblem(layout) != nil { survey.hasWrongFlags = true }
            if entry.isCompressed {
                survey.corruption(
                    "ERROR compressed cluster \(index) with data file, entry=0x\(hex(entry.raw))")
                continue
            }
            checkReservedBits(entry)
            let kind = entry.kind(layout)
            guard kind == .data || kind == .zeroAllocated else { continue }
            survey.allocatedClusters += 1
            if end != 0 && entry.hostOffset.bytes != end { survey.fragmentedClusters += 1 }
            end = entry.hostOffset.bytes + layout.clusterSize
            let expected = guest &+ index &* layout.clusterSize
            guard entry.hostOffset.bytes == expected else {
                survey.corruption(
                    "ERROR offset=\(hex(entry.hostOffset)): Cluster in the data file does not match its "
                        + "guest offset \(hex(expected)); L2 entry corrupted")
                continue
            }
            if !entry.isCopied { survey.hasWrongFlags = true }
        }
    }

    private mutating func checkReservedBits(_ entry: L2Entry) {
        if entry.raw & ~scope.knownBits != 0 {
            survey.corruption("ERROR found l2 entry with reserved bits set: \(hex(entry.raw))")
        }
    }

    private mutating func countCompressed(_ entry: L2Entry, isActive: Bool) {
        let range = entry.compressedRange(layout)
        if entry.isCopied {
            survey.corruption(
                "ERROR: coffset=0x\(hex(range.lowerBound)): copied flag must never be set for compressed "
                    + "clusters")
        }
        // The end is rounded to a sector, so only whole clusters past the end are wrong.
        let first = layout.cluster(at: range.lowerBound).index
        let last = layout.cluster(at: range.upperBound - 1).index
        guard last < scope.fileClusters else {
            survey.corruption(
                Qcow2CheckScope.behindEnd("compressed cluster", range.lowerBound.bytes, range.count))
            survey.cannotFollow("an L2 entry points nowhere")
            return
        }
        count(first..<last + 1)
        guard isActive else { return }
        survey.allocatedClusters += 1
        survey.compressedClusters += 1
        // Compressed clusters are out of order by their nature.
        survey.fragmentedClusters += 1
    }
}
