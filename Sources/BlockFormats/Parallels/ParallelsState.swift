import BlockCore

/// Header, table and space of an open image. Not thread-safe: the session's lock guards it.
///
/// The order of writes, with a flush after each step:
///
/// 1. before the first change of a session, the header with the mark "in use" and without its reference to
///    bitmaps, which a crash would leave outdated;
/// 2. data;
/// 3. the table's entries that refer to them; only now may clusters that lost their entries be taken again;
/// 4. when the image is closed, the bitmaps, in clusters of their own;
/// 5. the header, marked as closed, that refers to the bitmaps.
///
/// After a crash at any point the worst result is a cluster without a reference, which is free.
struct ParallelsState: BlockMoving {
    let file: BlockNode
    var header: ParallelsHeader
    var table: BlockTable
    var layout: ParallelsLayout
    var isReadOnly: Bool
    var space = ParallelsSpace()
    /// Clusters that lost their entries in memory, but not yet in the file.
    var freed: [Range<Int>] = []
    var writes: TableWrites?
    /// Clusters that are free once the changes being written are durable.
    private var freeing: [Range<Int>] = []
    /// Whether the table was checked, so that it may be written to.
    var isSound = false
    /// Whether the image was not closed and has not been repaired since.
    var isUnclean: Bool
    /// Whether this session has marked the image as in use.
    var isInUse = false
    /// Whether a failed write left the file's header undefined.
    var headerIsUncertain = false
    var features: ParallelsFeatures
    var growth: ParallelsGrowth?

    init(file: BlockNode, isReadOnly: Bool) throws(BlockError) {
        self.file = file
        self.isReadOnly = isReadOnly
        let length = try file.length()
        header = try ParallelsHeader.parse(
            try file.readBytes(at: 0, count: min(Parallels.headerBytes, length)))
        guard header.tableEnd <= length else {
            throw try file.cutError(
                "The block allocation table", end: header.tableEnd, at: Parallels.headerBytes)
        }
        table = try BlockTable(
            reading: file, at: Parallels.headerBytes, count: header.entryCount, isBigEndian: false)
        layout = ParallelsLayout(header, table, fileBytes: length)
        isUnclean = !header.wasClosed
        features = try ParallelsFeatures(reading: file, header, fileBytes: length)
    }

    var virtualSize: Int { header.virtualSize }

    /// Surveys the table without a repair.
    mutating func survey() throws(BlockError) -> ParallelsSurvey {
        var survey = try ParallelsSurvey(table, layout, fileBytes: try file.length())
        if !survey.mark(extensionClusters: features.ownClusters) {
            features.fail("its clusters are not its own")
        }
        return survey
    }

    /// Whether the table has too few entries for the disk.
    var tableIsShort: Bool { header.entries(forSize: header.virtualSize) > table.count }

    // MARK: Space

    /// Takes 1 to `most` adjacent clusters. They have no entries until they are linked.
    mutating func takeClusters(atMost most: Int) throws(BlockError) -> Range<Int> {
        let clusters = features.keepsUnknown ? space.append(most) : space.allocate(atMost: most)
        do throws(BlockError) {
            _ = try layout.entry(forCluster: clusters.upperBound - 1)
            try growth?.makeRoom(upTo: layout.hostOffset(ofCluster: clusters.upperBound), in: file)
        } catch {
            space.release(clusters)
            throw error
        }
        return clusters
    }

    var blockCount: Int { table.count }

    func hostOffset(ofEntry entry: UInt32) -> Int { layout.hostOffset(entry) }

    func hostRange(ofBlock block: Int) -> Range<Int>? {
        guard table[block] != Parallels.unallocated else { return nil }
        let start = layout.hostOffset(table[block])
        return start..<start + layout.clusterBytes
    }

    mutating func takeBlock() throws(BlockError) -> UInt32 {
        try layout.entry(forCluster: takeClusters(atMost: 1).lowerBound)
    }

    mutating func giveBack(_ entry: UInt32, of block: Int) {
        space.release(layout.cluster(entry)..<layout.cluster(entry) + 1)
    }

    /// The old cluster of the block is not freed.
    mutating func relink(_ block: Int, to entry: UInt32) { table[block] = entry }

    /// Links clusters with written data to the entries from `block` on: all of them, or none.
    mutating func link(_ block: Int, to clusters: Range<Int>) throws(BlockError) {
        let entries = try clusters.map { (cluster) throws(BlockError) in
            try layout.entry(forCluster: cluster)
        }
        for (index, entry) in entries.enumerated() { table[block + index] = entry }
    }

    /// Makes a block unallocated; its cluster is free once the entry is durable.
    mutating func unlink(_ block: Int) {
        let cluster = layout.cluster(table[block])
        table[block] = Parallels.unallocated
        if let last = freed.last, last.upperBound == cluster {
            freed[freed.count - 1] = last.lowerBound..<cluster + 1
        } else {
            freed.append(cluster..<cluster + 1)
        }
    }

    // MARK: Order

    /// Marks the image as in use before its first change. Flushes with the lock held, once a session: no
    /// request may change anything before the mark is durable.
    mutating func beginChanges() throws(BlockError) {
        if isInUse && !headerIsUncertain { return }
        if let obstacle = features.obstacle { throw BlockError(.unsupported, obstacle, path: file.filename) }
        try loadBitmaps()
        let old = features.ownClusters
        let kept = try storeKeptSections()
        header.inUse = Parallels.Use.open
        header.clearEmptyFlag()
        header.extensionSector = kept.sector
        try writeHeader()
        isInUse = true
        features.ownClusters = kept.clusters
        for offset in old {
            let cluster = layout.cluster(ofHostOffset: offset)
            space.release(cluster..<cluster + 1)
        }
    }

    /// Makes all changes durable, in the order above.
    mutating func commit() throws(BlockError) {
        try finishWrites()
        if headerIsUncertain { try writeHeader() }
        try file.flush()
        guard table.isDirty else { return }
        try table.write(to: file)
        try file.flush()
        releaseFreed()
    }

    /// In the same order as ``commit()``.
    mutating func takeChanges() throws(BlockError) -> TableWrites? {
        if headerIsUncertain { try writeHeader() }
        (freeing, freed) = (freed, [])
        return TableWrites([TableWrites.Step(parts: table.takeChanges())], to: file)
    }

    mutating func settle(failed: Bool) {
        table.settle(failed: failed)
        let waiting = freed
        freed = freeing
        freeing = []
        if !failed { releaseFreed() }
        freed += waiting
    }

    /// Frees the clusters whose lost entries are durable, and discards them on the host.
    mutating func releaseFreed() {
        for clusters in freed {
            space.release(clusters)
            // A failure is ignored: the file keeps the space.
            try? file.discard(
                at: layout.hostOffset(ofCluster: clusters.lowerBound),
                count: clusters.count * layout.clusterBytes)
        }
        freed = []
    }

    /// Writes the header, durable on return.
    mutating func writeHeader() throws(BlockError) {
        headerIsUncertain = true
        header.bytes = header.serialised()
        try file.write(header.bytes.span.bytes, at: 0)
        try file.flush()
        headerIsUncertain = false
    }

    /// The end of the used part of the file, in bytes.
    var usedEnd: Int { layout.hostOffset(ofCluster: space.end) }

    /// Brings the file to the state of a closed image.
    mutating func finish() throws(BlockError) {
        guard !isReadOnly, isInUse || headerIsUncertain || table.isDirty else { return }
        try commit()
        // An unclosed image that was not repaired must stay marked.
        guard !isUnclean, isInUse || headerIsUncertain else { return }
        let stored = try storeFeatures()
        header.extensionSector = stored.sector
        features.ownClusters = stored.clusters
        if isSound, !features.keepsUnknown, try file.length() > usedEnd { try file.resize(to: usedEnd) }
        try file.flush()
        header.inUse = Parallels.Use.closed
        try writeHeader()
        isInUse = false
    }
}

extension ParallelsLayout {
    func cluster(ofHostOffset offset: Int) -> Int { (offset - dataStart) / clusterBytes }
}

/// Preallocation: the file grows by more than a request needs, as set by the open options.
struct ParallelsGrowth: Sendable {
    var bytes: Int
    var preallocation: Preallocation

    /// Extends a file that ends before `end`, to beyond it.
    func makeRoom(upTo end: Int, in file: BlockNode) throws(BlockError) {
        guard bytes > 0, try file.length() < end else { return }
        let (target, overflow) = end.addingReportingOverflow(bytes)
        guard !overflow else { throw BlockError(.noSpace, "The image cannot grow any more") }
        try file.resize(to: target, preallocation: preallocation)
    }

    /// Takes `prealloc-mode` and `prealloc-size` out of the options, with QEMU's default for the other if
    /// only one is given.
    static func take(_ options: inout OptionTree) throws(BlockError) -> ParallelsGrowth? {
        let mode = options.take("prealloc-mode")
        let size = try options.takeSize("prealloc-size")
        guard mode != nil || size != nil else { return nil }
        guard let preallocation = ["falloc": Preallocation.falloc, "truncate": .off][mode ?? "falloc"] else {
            throw BlockError(
                .invalidArgument, "Parameter 'prealloc-mode' does not accept value '\(mode ?? "")'")
        }
        return ParallelsGrowth(bytes: size ?? 128 << 20, preallocation: preallocation)
    }
}
