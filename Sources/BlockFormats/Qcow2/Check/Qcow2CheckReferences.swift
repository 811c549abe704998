import BlockCore

/// A number as it stands in messages.
func hex(_ value: some BinaryInteger) -> String { String(value, radix: 16) }

extension Qcow2Checker {
    /// Counts every reference that the image's structures make to clusters of the window.
    mutating func countReferences(
        into window: inout ReferenceWindow, _ report: (String) -> Void
    ) throws(BlockError) {
        let header = tables.header
        window.count(0..<1)
        try countTree(header.l1Offset, header.l1Entries, tables.l1, &window, report)
        try countSnapshots(&window, report)
        try countBitmaps(&window, report)
        countEncryptionHeader(&window, report)
        count(
            "refcount table", header.refcountTableOffset, header.refcountTableClusters << layout.clusterBits,
            &window, report)
        try countRefcountBlocks(&window, report)
    }

    /// Counts a piece of metadata, if it lies in the file.
    @discardableResult
    mutating func count(
        _ what: @autoclosure () -> String, _ offset: Int, _ bytes: Int, _ window: inout ReferenceWindow,
        _ report: (String) -> Void
    ) -> Bool {
        if bytes == 0 { return true }
        let (end, overflow) = offset.addingReportingOverflow(bytes)
        let limit = offset == tables.header.l1Offset ? countedClusters : fileClusters
        guard offset >= 0, !overflow, layout.clusters(end) <= limit else {
            corruption(
                "ERROR \(what()) reaches beyond the end of the file: offset 0x\(hex(offset)) "
                    + "size 0x\(hex(bytes))", report)
            cannotFollow("the \(what()) is not all in the file")
            return false
        }
        window.count(offset >> layout.clusterBits..<layout.clusters(end))
        endOfReferences = max(endOfReferences, layout.clusters(end))
        return true
    }

    /// Counts the active L1 table and all below it.
    private mutating func countTree(
        _ offset: Int, _ entries: Int, _ l1: [UInt64], _ window: inout ReferenceWindow,
        _ report: (String) -> Void
    ) throws(BlockError) {
        if entries > 0 { count("L1 table", offset, entries * 8, &window, report) }
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var repeated = RepeatedTables(l1)
        for (index, entry) in l1.enumerated() where entry != 0 {
            guard let table = countedTable(entry, index, &window, report) else { continue }
            // Followed once: a small file could otherwise take very long to check.
            let isFirst = repeated.isFirstUse(of: table)
            window.noteFlag(table >> layout.clusterBits, isCopied: entry & L2Entry.copiedFlag != 0)
            if !isFirst { hasOverlaps = true }
            guard isFirst || !tables.data.isExternal else {
                corruption(
                    "ERROR L2 table at 0x\(hex(table)) is used more than once (L1 index \(index))", report)
                continue
            }
            guard isFirst else { continue }
            window.times = repeated.uses(of: table)
            defer { window.times = 1 }
            var bytes = buffer.mutableBytes
            try tables.file.read(into: &bytes, at: table)
            let guest = index.multipliedReportingOverflow(by: layout.guestBytesPerL2Table)
            countTable(buffer, guest: guest.partialValue, isActive: true, &window, report)
        }
    }

    /// The L2 table that an L1 entry refers to, counted; `nil` when it has none that can be followed.
    mutating func countedTable(
        _ entry: UInt64, _ index: Int, _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) -> Int? {
        let table = Int(entry & L2Entry.offsetMask)
        if entry & ~(L2Entry.offsetMask | L2Entry.copiedFlag) != 0 {
            corruption("ERROR found L1 entry with reserved bits set: \(hex(entry))", report)
        } else if table == 0 {
            corruption("ERROR found L1 entry with a flag and no table: \(hex(entry))", report)
            cannotFollow("an L1 entry has lost its table")
        }
        if table == 0 { return nil }
        guard layout.isAligned(table) else {
            corruption(
                "ERROR l2_offset=\(hex(table)): Table is not cluster aligned; L1 entry corrupted", report)
            cannotFollow("an L1 entry points nowhere")
            return nil
        }
        let isCounted = count(
            "L2 table (L1 index \(index))", table, layout.clusterSize, &window, report)
        return isCounted ? table : nil
    }

    /// - Parameter guest: the guest offset of the first cluster.
    mutating func countTable(
        _ buffer: AlignedBuffer, guest: Int, isActive: Bool, _ window: inout ReferenceWindow,
        _ report: (String) -> Void
    ) {
        if tables.data.isExternal { return checkDataFileTable(buffer, guest: guest, report) }
        let bytes = buffer.bytes
        var expected = 0
        var next = 0
        while next < layout.entriesPerL2Table {
            let index = next
            next += 1
            let entry = layout.entry(index, of: bytes)
            if entry == .unallocated { continue }
            // Told and mended with the flags.
            if entry.bitmap != 0, entry.bitmapProblem(layout) != nil { hasWrongFlags = true }
            if entry.isCompressed {
                countCompressed(entry, isActive: isActive, &window, report)
                continue
            }
            checkReservedBits(entry, report)
            let host = entry.hostOffset
            if host == 0 { continue }
            guard layout.isAligned(host) else {
                countUnaligned(entry, isActive, &expected, &window, report)
                continue
            }
            let cluster = host >> layout.clusterBits
            let size = layout.clusterSize
            guard cluster < fileClusters else {
                corruption(
                    "ERROR data cluster reaches beyond the end of the file: offset 0x\(hex(host)) "
                        + "size 0x\(hex(size))", report)
                cannotFollow("an L2 entry points nowhere")
                continue
            }
            guard isActive else {
                window.count(cluster..<cluster + 1)
                endOfReferences = max(endOfReferences, cluster + 1)
                continue
            }
            let followers = runLength(behind: entry, index, in: bytes)
            next += followers
            let run = cluster..<cluster + 1 + followers
            window.countActive(run, isCopied: entry.isCopied)
            endOfReferences = max(endOfReferences, run.upperBound)
            result.allocatedClusters += run.count
            if expected != 0 && host != expected { result.fragmentedClusters += 1 }
            expected = run.upperBound << layout.clusterBits
        }
    }

    /// An entry that points into a cluster seems to have that one and the next, which nobody frees meanwhile.
    private mutating func countUnaligned(
        _ entry: L2Entry, _ isActive: Bool, _ expected: inout Int, _ window: inout ReferenceWindow,
        _ report: (String) -> Void
    ) {
        let host = entry.hostOffset
        let hasData = layout.hasSubclusters ? entry.allocatedSubclusters != 0 : entry.kind(layout) == .data
        corruption(
            "ERROR offset=\(hex(host)): \(hasData ? "Data" : "Preallocated") cluster is not properly "
                + "aligned; L2 entry corrupted.", report)
        cannotFollow("an L2 entry points nowhere")
        let first = host >> layout.clusterBits
        let touched = (first..<first + 2).clamped(to: 0..<fileClusters)
        window.count(touched)
        if !touched.isEmpty { endOfReferences = max(endOfReferences, touched.upperBound) }
        guard isActive else { return }
        result.allocatedClusters += 1
        if expected != 0 && host != expected { result.fragmentedClusters += 1 }
        expected = host + layout.clusterSize
    }

    /// How many entries behind a sound one of plain data continue it inside the file.
    private func runLength(behind entry: L2Entry, _ index: Int, in table: RawSpan) -> Int {
        guard !layout.hasSubclusters, entry.raw & ~knownBits == 0 else { return 0 }
        let last = fileClusters - 1 - entry.hostOffset >> layout.clusterBits
        return layout.continuation(of: entry, index, in: table, limit: last)
    }

    /// Clusters of a data file are not counted, but each has its place.
    private mutating func checkDataFileTable(
        _ buffer: AlignedBuffer, guest: Int, _ report: (String) -> Void
    ) {
        var end = 0
        for index in 0..<layout.entriesPerL2Table {
            let entry = layout.entry(index, of: buffer.bytes)
            if entry == .unallocated { continue }
            if entry.bitmap != 0, entry.bitmapProblem(layout) != nil { hasWrongFlags = true }
            if entry.isCompressed {
                corruption(
                    "ERROR compressed cluster \(index) with data file, entry=0x\(hex(entry.raw))", report)
                continue
            }
            checkReservedBits(entry, report)
            let kind = entry.kind(layout)
            guard kind == .data || kind == .zeroAllocated else { continue }
            result.allocatedClusters += 1
            if end != 0 && entry.hostOffset != end { result.fragmentedClusters += 1 }
            end = entry.hostOffset + layout.clusterSize
            let expected = guest &+ index &* layout.clusterSize
            guard entry.hostOffset == expected else {
                corruption(
                    "ERROR offset=\(hex(entry.hostOffset)): Cluster in the data file does not match its "
                        + "guest offset \(hex(expected)); L2 entry corrupted", report)
                continue
            }
            if !entry.isCopied { hasWrongFlags = true }
        }
    }

    private mutating func checkReservedBits(_ entry: L2Entry, _ report: (String) -> Void) {
        if entry.raw & ~knownBits != 0 {
            corruption("ERROR found l2 entry with reserved bits set: \(hex(entry.raw))", report)
        }
    }

    private mutating func countCompressed(
        _ entry: L2Entry, isActive: Bool, _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) {
        let range = entry.compressedRange(layout)
        if entry.isCopied {
            corruption(
                "ERROR: coffset=0x\(hex(range.lowerBound)): copied flag must never be set for compressed "
                    + "clusters", report)
        }
        // The end is rounded to a sector, so only whole clusters past the end are wrong.
        let first = range.lowerBound >> layout.clusterBits
        let last = (range.upperBound - 1) >> layout.clusterBits
        guard last < fileClusters else {
            corruption(
                "ERROR compressed cluster reaches beyond the end of the file: offset "
                    + "0x\(hex(range.lowerBound)) size 0x\(hex(range.count))", report)
            cannotFollow("an L2 entry points nowhere")
            return
        }
        window.count(first..<last + 1)
        endOfReferences = max(endOfReferences, last + 1)
        guard isActive else { return }
        result.allocatedClusters += 1
        result.compressedClusters += 1
        // Compressed clusters are out of order by their nature.
        result.fragmentedClusters += 1
    }

    private mutating func countSnapshots(
        _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) throws(BlockError) {
        let table: (snapshots: [Qcow2Snapshot], bytes: Int)
        do throws(BlockError) { table = try tables.snapshotTable(checksPlaces: false) } catch {
            if error.kind == .io { throw error }
            corruption("ERROR snapshot table: \(error.message)", report)
            result.checkErrors += 1
            return cannotFollow("the snapshot table cannot be read")
        }
        var followed: [Qcow2Snapshot] = []
        for snapshot in table.snapshots {
            checkEntry(of: snapshot, report)
            guard let placed = placed(snapshot) else {
                let problem = tables.placeProblem(of: snapshot)?.message ?? "its L1 table is not in the file"
                badSnapshot("ERROR snapshot \(snapshot.info.id): \(problem)", report)
                cannotFollow("snapshot \(snapshot.info.id) has no L1 table")
                continue
            }
            if placed != snapshot {
                badSnapshot("ERROR snapshot \(snapshot.info.id): its L1 table is not all in the file", report)
                cannotFollow("the L1 table of snapshot \(snapshot.info.id) is not all in the file")
            }
            followed.append(placed)
        }
        try countTrees(of: followed, &window, report)
        count("snapshot table", tables.header.snapshotsOffset, table.bytes, &window, report)
    }

    /// What the entry alone tells. Too little extra data is how programs of version 2 wrote it: no damage,
    /// but a repair completes it.
    private mutating func checkEntry(of snapshot: Qcow2Snapshot, _ report: (String) -> Void) {
        if layout.version >= 3 && snapshot.lacksExtra {
            incompleteSnapshots += 1
            hasBadSnapshots = true
            tell("Snapshot \(snapshot.info.id) has less extra data than version 3 wants", report)
        }
        if snapshot.hasTooMuchExtra {
            badSnapshot("ERROR snapshot \(snapshot.info.id) has too much extra data", report)
        }
        if doubt == nil { doubt = tables.doubt(about: snapshot) }
    }

    /// Notes that something may refer to clusters that nothing known refers to: none of those is freed.
    mutating func cannotFollow(_ reason: @autoclosure () -> String) {
        if unknownReferences == nil { unknownReferences = reason() }
    }

    private mutating func badSnapshot(_ line: @autoclosure () -> String, _ report: (String) -> Void) {
        hasBadSnapshots = true
        corruption(line(), report)
    }

    /// Blocks that the refcount table refers to; ones that lie wrong make a rebuild necessary.
    private mutating func countRefcountBlocks(
        _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) throws(BlockError) {
        for (index, entry) in try tables.refcounts().table.enumerated() where entry != 0 {
            let offset = Int(entry & L2Entry.offsetMask)
            if entry & ~L2Entry.offsetMask != 0 {
                refcountCorruption("ERROR refcount table entry \(index) has reserved bits set", report)
            }
            if offset == 0 { continue }
            guard layout.isAligned(offset) else {
                refcountCorruption(
                    "ERROR refcount block \(index) is not cluster aligned; refcount table entry corrupted",
                    report)
                continue
            }
            guard layout.clusters(offset) < fileClusters else {
                refcountCorruption("ERROR refcount block \(index) is outside image", report)
                continue
            }
            let cluster = offset >> layout.clusterBits
            window.count(cluster..<cluster + 1)
            endOfReferences = max(endOfReferences, cluster + 1)
        }
    }

    /// The refcount structure has its clusters to itself; where it does not, it is built anew elsewhere.
    ///
    /// - Parameter window: with everything counted.
    mutating func checkOverlaps(_ window: ReferenceWindow, _ report: (String) -> Void) throws(BlockError) {
        for (index, entry) in try tables.refcounts().table.enumerated() where entry & L2Entry.offsetMask != 0
        {
            let offset = Int(entry & L2Entry.offsetMask)
            let cluster = offset >> layout.clusterBits
            guard layout.isAligned(offset), window.clusters.contains(cluster) else { continue }
            if window.count(of: cluster) > 1 {
                refcountCorruption(
                    "ERROR refcount block \(index) is in a cluster that is used otherwise", report)
                hasOverlaps = true
            }
        }
        checkBitmapOverlaps(window, report)
        let first = tables.header.refcountTableOffset >> layout.clusterBits
        let table = first..<first + tables.header.refcountTableClusters
        for cluster in table.clamped(to: window.clusters) where window.count(of: cluster) > 1 {
            refcountCorruption(
                "ERROR refcount table is in cluster \(cluster), which is used otherwise", report)
            hasOverlaps = true
        }
    }

    private mutating func refcountCorruption(_ line: @autoclosure () -> String, _ report: (String) -> Void) {
        result.corruptions += 1
        needsRebuild = true
        tell(line(), report)
    }

    private mutating func countEncryptionHeader(_ window: inout ReferenceWindow, _ report: (String) -> Void) {
        guard let data = tables.header.extensionData(Qcow2.ExtensionType.encryption) else { return }
        if tables.header.cryptMethod != Qcow2Encryption.Method.luks.rawValue {
            corruption("ERROR the header tells of LUKS keys, but of another encryption method", report)
        }
        let bytes = data.span.bytes
        guard let offset: UInt64 = bytes.bigEndian(at: 0), let length: UInt64 = bytes.bigEndian(at: 8) else {
            return
        }
        count("encryption header", Int(clamping: offset), Int(clamping: length), &window, report)
    }
}

/// The L2 tables that an L1 table refers to more than once, which no sound one does.
struct RepeatedTables {
    /// Offsets, sorted.
    private var offsets: [Int] = []
    private var wasSeen: [Bool] = []
    private var counts: [UInt64] = []

    init(_ l1: [UInt64]) {
        var last = 0
        var isAscending = true
        for entry in l1 where entry & L2Entry.offsetMask != 0 {
            let offset = Int(entry & L2Entry.offsetMask)
            if offset <= last { isAscending = false }
            last = offset
        }
        if isAscending { return }
        var all: [Int] = []
        all.reserveCapacity(l1.count)
        for entry in l1 where entry & L2Entry.offsetMask != 0 { all.append(Int(entry & L2Entry.offsetMask)) }
        all.sort()
        for index in all.indices.dropFirst() where all[index] == all[index - 1] {
            if offsets.last == all[index] {
                counts[counts.count - 1] += 1
            } else {
                offsets.append(all[index])
                counts.append(2)
            }
        }
        wasSeen = [Bool](repeating: false, count: offsets.count)
    }

    /// How many entries refer to the table at `offset`.
    func uses(of offset: Int) -> UInt64 {
        if offsets.isEmpty { return 1 }
        let index = offsets.firstIndex(notBelow: offset)
        return index < offsets.count && offsets[index] == offset ? counts[index] : 1
    }

    /// Whether this is the first time that the table at `offset` is asked about.
    mutating func isFirstUse(of offset: Int) -> Bool {
        if offsets.isEmpty { return true }
        let index = offsets.firstIndex(notBelow: offset)
        guard index < offsets.count, offsets[index] == offset else { return true }
        defer { wasSeen[index] = true }
        return !wasSeen[index]
    }
}
