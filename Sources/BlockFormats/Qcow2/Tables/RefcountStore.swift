import BlockCore

/// The refcounts of an image's clusters, and the allocation of clusters.
///
/// Changes stay in memory until ``writeBack(barrier:)``. Not thread-safe: used under the driver's lock.
/// Clusters are counted from the start of the file.
/// Unchecked: only the driver's monitor hands it from thread to thread.
final class RefcountStore: @unchecked Sendable {
    let file: BlockNode
    let layout: Qcow2Layout
    let cache: TableCache
    /// The refcount table: host offsets of blocks, 0 for "all zero".
    var table: [UInt64]
    var tableOffset: Int
    var tableClusters: Int
    /// Entries of ``table`` that differ from the file.
    var dirtyTable: Range<Int>?
    /// Those of them that are being written without the lock.
    var heldTable: Range<Int>?
    /// How the table grows: see RefcountGrowth.swift.
    var growth = Growth()
    /// Clusters below this one are (nearly) all in use: where the search for free ones begins.
    private(set) var firstMaybeFree = 0
    /// No cluster from here on was ever written: the file is shorter, so they read as zeroes.
    private(set) var virginCluster: Int
    /// Who knows where metadata lies. Without an owner, any cluster whose refcount is zero is free.
    weak var owner: (any RefcountOwner)?
    /// Set while changes go to copies of blocks.
    private var shadow: Shadow?

    static let entryOffsetMask: UInt64 = ~0x1ff
    /// How many clusters behind the end of the file may be counted before the search for a free one gives up.
    private static let searchLimit = 4 << 20

    /// Loads the table.
    init(
        file: BlockNode, layout: Qcow2Layout, tableOffset: Int, tableClusters: Int,
        cacheBytes: Int = Qcow2.CacheBudget.refcountBytes
    ) throws(BlockError) {
        self.file = file
        self.layout = layout
        self.tableOffset = tableOffset
        self.tableClusters = tableClusters
        cache = TableCache(
            file: file, sliceSize: layout.sliceSize, budgetBytes: cacheBytes,
            loadEvent: .refcountBlockLoad)
        file.emit(.refcountTableLoad)
        table = try BigEndianTable.read(
            file, at: tableOffset, count: (tableClusters << layout.clusterBits) / 8)
        virginCluster = layout.clusters(try file.length())
    }

    var hasDirty: Bool { cache.hasDirty || dirtyTable != nil }
    /// The largest cluster number that may exist: offsets have 56 bits.
    var clusterLimit: Int { 1 << (56 - layout.clusterBits) }

    // MARK: Single refcounts

    private func blockOffset(_ cluster: Int) throws(BlockError) -> Int? {
        let index = cluster / layout.refcountsPerBlock
        guard table.indices.contains(index) else { return nil }
        let offset = Int(table[index] & Self.entryOffsetMask & L2Entry.offsetMask)
        if offset == 0 { return nil }
        guard layout.isAligned(offset) else {
            throw BlockError(
                .corrupt, "Refcount block offset 0x\(String(offset, radix: 16)) is not aligned to a cluster",
                path: file.filename, offset: offset)
        }
        guard offset >> layout.clusterBits < virginCluster else {
            throw BlockError(
                .corrupt,
                "Refcount block offset 0x\(String(offset, radix: 16)) is beyond the end of the file",
                path: file.filename, offset: offset)
        }
        return offset
    }

    /// One past the last cluster for which there is a block.
    var endOfBlocks: Int {
        let last = table.lastIndex { $0 & L2Entry.offsetMask != 0 }
        return last.map { ($0 + 1) * layout.refcountsPerBlock } ?? 0
    }

    /// Whether there is a block for `cluster`; where not, its refcount and those of the block's others are
    /// zero.
    func hasBlock(for cluster: Int) -> Bool {
        let index = cluster / layout.refcountsPerBlock
        return table.indices.contains(index) && table[index] & L2Entry.offsetMask != 0
    }

    /// The slot of the slice that holds `cluster`'s refcount, and its entry number there.
    private func locate(_ cluster: Int, block: Int) throws(BlockError) -> (slot: Int, entry: Int) {
        if cache.isCrowdedByDirty { try cache.writeBack() }
        let entry = cluster % layout.refcountsPerBlock
        let perSlice = (layout.sliceSize * 8) >> layout.refcountOrder
        let slot = try cache.slot(at: block + entry / perSlice * layout.sliceSize)
        return (slot, entry % perSlice)
    }

    /// How often `cluster` is referred to, as far as the refcounts know.
    func refcount(of cluster: Int) throws(BlockError) -> UInt64 {
        guard let block = try blockOffset(cluster) else { return 0 }
        let (slot, entry) = try locate(cluster, block: block)
        return RefcountEntries.get(cache.bytes(of: slot).bytes, entry, order: layout.refcountOrder)
    }

    /// The slot of the slice with `cluster`'s refcount, the entry's number there, and how many entries there
    /// are.
    func slot(of cluster: Int) throws(BlockError) -> (slot: Int, entry: Int, entries: Int)? {
        guard let block = try blockOffset(cluster) else { return nil }
        let (slot, entry) = try locate(cluster, block: block)
        return (slot, entry, (layout.sliceSize * 8) >> layout.refcountOrder)
    }

    /// The cached slice with `cluster`'s refcount: its bytes, the entry's number, and how many entries there
    /// are.
    func slice(of cluster: Int) throws(BlockError) -> (buffer: AlignedBuffer, first: Int, entries: Int)? {
        guard let (slot, first, entries) = try slot(of: cluster) else { return nil }
        return (cache.bytes(of: slot), first, entries)
    }

    /// Sets a refcount. The block exists or is made.
    func set(_ cluster: Int, to value: UInt64) throws(BlockError) {
        let block: Int
        if let existing = try blockOffset(cluster) {
            block = try writableBlock(cluster / layout.refcountsPerBlock, at: existing)
        } else {
            if value == 0 { return }
            block = try makeBlock(for: cluster)
        }
        let (slot, entry) = try locate(cluster, block: block)
        try cache.reserve(slot)
        var bytes = cache.bytes(of: slot).mutableBytes
        RefcountEntries.set(&bytes, entry, to: value, order: layout.refcountOrder)
        cache.markDirty(slot, RefcountEntries.byteRange(entry, order: layout.refcountOrder))
    }

    /// Adds one reference.
    func increment(_ cluster: Int) throws(BlockError) {
        let old = try refcount(of: cluster)
        guard old < layout.maximumRefcount else {
            throw BlockError(
                .limit, "Refcount of cluster \(cluster) cannot become larger than \(layout.maximumRefcount)",
                path: file.filename)
        }
        try set(cluster, to: old + 1)
    }

    /// Takes one reference away and answers how many are left. A refcount of zero is left alone: the image is
    /// damaged, and a check will tell.
    @discardableResult
    func decrement(_ cluster: Int) throws(BlockError) -> UInt64 {
        let old = try refcount(of: cluster)
        guard old > 0 else { return 0 }
        try set(cluster, to: old - 1)
        if old == 1 { noteFreed(cluster) }
        return old - 1
    }

    // MARK: Allocation

    /// Allocates `count` clusters in a row, with a refcount of one. What counts them has its space in the
    /// file, so that a full disk refuses the clusters, not their refcounts. A failure takes none.
    func allocate(_ count: Int) throws(BlockError) -> Int {
        file.emit(.clusterAllocate)
        let first = try findFree(count)
        var counted = first
        do throws(BlockError) {
            while counted < first + count {
                try set(counted, to: 1)
                counted += 1
            }
            try placeGrownTable()
        } catch {
            giveBack(first..<counted)
            firstMaybeFree = min(firstMaybeFree, first)
            throw error
        }
        return first
    }

    /// Takes back clusters that nothing refers to. What cannot be taken back is leaked, which a check finds.
    func giveBack(_ clusters: Range<Int>) {
        for cluster in clusters { _ = try? decrement(cluster) }
    }

    /// Finds `count` free clusters in a row and takes them out of the search, without a refcount yet.
    private func findFree(_ count: Int) throws(BlockError) -> Int {
        let limit = min(clusterLimit, virginCluster + Self.searchLimit + count)
        var candidate = firstMaybeFree
        var run = 0
        while run < count {
            let cluster = candidate + run
            guard cluster < limit else {
                throw BlockError(.noSpace, "The image file would become too large", path: file.filename)
            }
            let isCounted = try refcount(of: cluster) != 0
            let isFree = isCounted || isHeld(cluster) ? false : try owner?.mayAllocate(cluster) ?? true
            if !isFree {
                candidate = cluster + 1
                run = 0
            } else {
                run += 1
            }
        }
        firstMaybeFree = candidate + count
        virginCluster = max(virginCluster, candidate + count)
        return candidate
    }

    /// Takes all clusters up to `end` out of the search for free ones; answers where it began.
    func takeEnd(_ end: Int) -> Int {
        defer {
            firstMaybeFree = end
            virginCluster = max(virginCluster, end)
        }
        return firstMaybeFree
    }

    /// Lets the search begin there again, unless it begins before.
    func searchAgain(from cluster: Int) { firstMaybeFree = min(firstMaybeFree, cluster) }

    /// Makes the refcount block that counts `cluster`.
    private func makeBlock(for cluster: Int) throws(BlockError) -> Int {
        let index = cluster / layout.refcountsPerBlock
        if index >= table.count { try growTable(toHold: index) }
        if let made = try blockOffset(cluster) { return made }
        file.emit(.refcountBlockAllocate)
        let home = try findFree(1)
        owner?.willMakeBlock(home)
        let offset = home << layout.clusterBits
        do throws(BlockError) {
            file.emit(.refcountBlockWrite)
            try reserveEntry(index)
            shadow?.blocks.insert(index)
            try clear(block: offset)
            table[index] = UInt64(offset)
            noteDirtyTable(index..<index + 1)
            // The block's own cluster is counted by this block, or by another that may have to be made too.
            try set(home, to: 1)
        } catch {
            // A block that nobody counts would be given out to somebody else.
            table[index] = 0
            cache.discard(offset..<offset + layout.clusterSize)
            firstMaybeFree = min(firstMaybeFree, home)
            throw error
        }
        return offset
    }

    /// A new block is all zero in the file before anything refers to it.
    private func clear(block offset: Int) throws(BlockError) {
        if layout.sliceSize == layout.clusterSize {
            let slot = try cache.slot(at: offset, load: false)
            try cache.reserve(slot)
            cache.markDirty(slot, 0..<layout.sliceSize)
        } else {
            try file.writeReservedZeroes(at: offset, count: layout.clusterSize)
        }
    }

    func noteDirtyTable(_ range: Range<Int>) {
        guard let dirty = dirtyTable else { return dirtyTable = range }
        dirtyTable = min(dirty.lowerBound, range.lowerBound)..<max(dirty.upperBound, range.upperBound)
    }

    /// Gives up blocks that count nothing but themselves, for they would keep the file long.
    ///
    /// Order of writes: the table without them, a barrier; then whoever counts their clusters counts less.
    func dropEmptyBlocks(barrier: () throws(BlockError) -> Void) throws(BlockError) {
        // A block may count nothing but another one that goes.
        while try dropSomeBlocks(barrier: barrier) {}
    }

    /// - Returns: whether any block was dropped.
    private func dropSomeBlocks(barrier: () throws(BlockError) -> Void) throws(BlockError) -> Bool {
        var dropped: [Int] = []
        for index in table.indices.dropFirst() {
            guard let block = try blockOffset(index * layout.refcountsPerBlock),
                try countsOnlyItself(index, at: block >> layout.clusterBits)
            else { continue }
            table[index] = 0
            noteDirtyTable(index..<index + 1)
            dropped.append(block)
        }
        if dropped.isEmpty { return false }
        for block in dropped { cache.discard(block..<block + layout.clusterSize) }
        try writeBack(barrier: barrier)
        try barrier()
        for block in dropped { try decrement(block >> layout.clusterBits) }
        return true
    }

    private func countsOnlyItself(_ index: Int, at home: Int) throws(BlockError) -> Bool {
        let first = index * layout.refcountsPerBlock
        for cluster in first..<first + layout.refcountsPerBlock where cluster != home {
            if try refcount(of: cluster) != 0 { return false }
        }
        return true
    }

    // MARK: Shadow

    /// What a change that is not to be seen in parts keeps in mind.
    private struct Shadow {
        /// Numbers of the blocks that are copies, or new.
        var blocks: Set<Int> = []
        /// Clusters that lost their last reference; the header in the file still refers to them.
        var held = ClusterFilter()
        /// Those from `end` on, for which the filter is not asked.
        var heldBehindEnd: Set<Int> = []
        /// Where the file ended.
        let end: Int
        var lowestFreed = Int.max
        /// Where the blocks were that are copies now.
        var left: [Range<Int>] = []
    }

    /// From now on blocks are copied before they change, to clusters that are free before and after the
    /// change: the file keeps its refcounts until the header refers to a new table (``placeTable()``). All
    /// changes have been written back. After a failure this store is of no use any more.
    ///
    /// - Parameter first: where the search for free clusters begins.
    func beginShadow(searchingFrom first: Int) throws(BlockError) {
        shadow = Shadow(end: virginCluster)
        firstMaybeFree = first
        // The new blocks and the new table may need entries behind those that there are.
        let last = virginCluster / layout.refcountsPerBlock + 2
        if last >= table.count { try growTable(toHold: last) }
    }

    /// The header refers to the new table, durably.
    ///
    /// - Returns: the clusters of blocks that were copied.
    func endShadow() -> [Range<Int>] {
        guard let shadow else { return [] }
        self.shadow = nil
        firstMaybeFree = min(firstMaybeFree, shadow.lowestFreed)
        return shadow.left
    }

    /// The offset of the block with that number, which may be changed there.
    private func writableBlock(_ index: Int, at old: Int) throws(BlockError) -> Int {
        guard shadow?.blocks.insert(index).inserted == true else { return old }
        let home = try findFree(1)
        owner?.willMakeBlock(home)
        let offset = home << layout.clusterBits
        // Where this fails, the whole store is given up (``beginShadow(searchingFrom:)``).
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var bytes = buffer.mutableBytes
        try file.read(into: &bytes, at: old)
        try file.write(buffer.bytes, at: offset)
        table[index] = UInt64(offset)
        noteDirtyTable(index..<index + 1)
        try set(home, to: 1)
        try decrement(old >> layout.clusterBits)
        let cluster = old >> layout.clusterBits
        shadow?.left.append(cluster..<cluster + 1)
        return offset
    }

    private func noteFreed(_ cluster: Int) {
        guard let end = shadow?.end, let lowest = shadow?.lowestFreed else {
            return firstMaybeFree = min(firstMaybeFree, cluster)
        }
        shadow?.lowestFreed = min(lowest, cluster)
        if cluster < end {
            shadow?.held.insert(cluster)
        } else {
            shadow?.heldBehindEnd.insert(cluster)
        }
    }

    private func isHeld(_ cluster: Int) -> Bool {
        guard let shadow else { return false }
        return cluster < shadow.end ? shadow.held.mayContain(cluster) : shadow.heldBehindEnd.contains(cluster)
    }

    // MARK: Writing back

    /// Writes all changes: blocks first, then (after `barrier`) the table entries that point to new ones.
    func writeBack(barrier: () throws(BlockError) -> Void) throws(BlockError) {
        if cache.hasDirty { file.emit(.refcountBlockUpdate) }
        try cache.writeBack()
        guard !needsPlacing, let dirty = dirtyTable else { return }
        try barrier()
        // The entries in the file lack new blocks only.
        file.emit(.refcountBlockHookup)
        file.emit(.refcountTableUpdate)
        try BigEndianTable.write(table, dirty, to: file, at: tableOffset)
        dirtyTable = nil
    }

    /// Forgets everything that was changed and cached, and reads the table again.
    func reload(tableOffset: Int, tableClusters: Int) throws(BlockError) {
        cache.discardAll()
        self.tableOffset = tableOffset
        self.tableClusters = tableClusters
        table = try BigEndianTable.read(
            file, at: tableOffset, count: (tableClusters << layout.clusterBits) / 8)
        dirtyTable = nil
        heldTable = nil
        growth = Growth()
        firstMaybeFree = 0
        virginCluster = max(virginCluster, layout.clusters(try file.length()))
    }

    /// Drops what is cached of host clusters that now hold something else.
    func forget(_ bytes: Range<Int>) { cache.discard(bytes) }
}

/// Knows where metadata lies. Called under the driver's lock.
protocol RefcountOwner: AnyObject, Sendable {
    /// Whether a cluster with a refcount of zero may be given out; throws when it must be counted.
    func mayAllocate(_ cluster: Int) throws(BlockError) -> Bool
    /// Told of every cluster that becomes a refcount block.
    func willMakeBlock(_ cluster: Int)
}

/// Tables of big-endian 64-bit entries in a file.
enum BigEndianTable {
    private static let chunkBytes = 1 << 20

    /// Reads `count` entries; past the end of the file they are zero.
    static func read(_ file: BlockNode, at offset: Int, count: Int) throws(BlockError) -> [UInt64] {
        var table: [UInt64] = []
        table.reserveCapacity(count)
        let left = max(0, try file.length() - offset)
        let written = min(count, left / 8 + (left % 8).signum())
        let buffer = AlignedBuffer(count: min(max(written * 8, 8), chunkBytes))
        while table.count < written {
            let entries = min(written - table.count, buffer.count / 8)
            var bytes = buffer.mutableBytes(0..<entries * 8)
            try file.read(into: &bytes, at: offset + table.count * 8)
            for entry in 0..<entries { table.append(buffer.bytes.bigEndian(at: entry * 8) ?? 0) }
        }
        table.append(contentsOf: repeatElement(0, count: count - written))
        return table
    }

    /// The entries of `range` as the file has them.
    static func part(_ table: [UInt64], _ range: Range<Int>, at offset: Int) -> TableWrites.Part {
        var bytes = [UInt8](repeating: 0, count: range.count * 8)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        for (index, entry) in table[range].enumerated() { span.storeBigEndian(entry, at: index * 8) }
        return TableWrites.Part(offset: offset + range.lowerBound * 8, bytes: bytes)
    }

    /// Writes the entries of `range` (all by default) of the table that starts at `offset`.
    static func write(
        _ table: [UInt64], _ range: Range<Int>? = nil, to file: BlockNode, at offset: Int
    ) throws(BlockError) {
        let range = range ?? 0..<table.count
        var next = range.lowerBound
        while next < range.upperBound {
            let entries = min(range.upperBound - next, chunkBytes / 8)
            var bytes = [UInt8](repeating: 0, count: entries * 8)
            var elements = bytes.mutableSpan
            var span = elements.mutableBytes
            for entry in 0..<entries { span.storeBigEndian(table[next + entry], at: entry * 8) }
            try file.write(bytes.span.bytes, at: offset + next * 8)
            next += entries
        }
    }
}
