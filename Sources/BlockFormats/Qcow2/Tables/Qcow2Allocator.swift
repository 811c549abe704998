import BlockCore

/// The refcounts of an image's clusters, and the allocation of clusters, which follows from them.
///
/// By role: single refcounts here, walks over them in Qcow2AllocatorLookup.swift, taking clusters in
/// Qcow2AllocatorTaking.swift, giving them up in Qcow2AllocatorRelease.swift, a table that grows in
/// Qcow2AllocatorGrowth.swift, changes beside the old state in Qcow2AllocatorShadow.swift, the file in
/// Qcow2AllocatorWriting.swift.
///
/// Order of writes (``writeBack()``):
/// 1. Refcount blocks, new ones among them.
/// 2. A barrier; then the entries of the refcount table that refer to new blocks.
///
/// Changes stay in memory until then. Not thread-safe: used under the driver's lock.
/// Clusters are counted from the start of the file.
/// Unchecked: only the driver's monitor hands it from thread to thread.
final class Qcow2Allocator: @unchecked Sendable {
    let file: BlockNode
    let layout: Qcow2Layout
    let cache: TableCache
    /// The refcount table: host offsets of blocks, 0 for "all zero".
    var table: [UInt64]
    var tableOffset: Int
    var tableClusters: Int
    /// The entries of ``table`` that differ from the file.
    var dirtyTable: Range<Int>?
    /// The changed entries of ``table`` that a flush is writing without the lock.
    var heldTable: Range<Int>?
    /// How the table grows: see Qcow2AllocatorGrowth.swift.
    var growth = Growth()
    /// The search for free clusters begins here: nearly all clusters below are in use.
    var firstMaybeFree = HostCluster(0)
    /// No cluster from here on was ever written: the file is shorter, so they read as zeroes.
    var virginCluster: HostCluster
    /// Refuses the allocation of clusters that hold metadata. Without a guard, every cluster with a refcount
    /// of zero is free.
    weak var clusterGuard: (any Qcow2ClusterGuard)?
    /// Set while changes go to copies of blocks: see Qcow2AllocatorShadow.swift.
    var shadow: Shadow?
    /// The clusters that may be refcount blocks; built by the first call of ``isBlock(_:)``.
    var blockFilter: ClusterFilter?

    /// How many clusters behind the end of the file may be counted before the search for a free one gives up.
    static let searchLimit = 4 << 20

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
        virginCluster = layout.endCluster(ofFile: try file.length())
    }

    var hasDirty: Bool { cache.hasDirty || dirtyTable != nil }
    /// The largest cluster number that may exist: offsets have 56 bits.
    var clusterLimit: HostCluster { HostCluster(1 << (56 - layout.clusterBits)) }

    // MARK: Single refcounts

    /// The offset of the block that counts `cluster`; `nil` for none.
    ///
    /// - Throws: `corrupt` where the table's entry is no valid offset of a block.
    func blockOffset(_ cluster: HostCluster) throws(BlockError) -> HostOffset? {
        let index = layout.refcountBlock(of: cluster)
        guard table.indices.contains(index) else { return nil }
        let offset = Int(table[index] & L2Entry.offsetMask)
        if offset == 0 { return nil }
        guard layout.isAligned(offset) else {
            throw BlockError(
                .corrupt, "Refcount block offset 0x\(String(offset, radix: 16)) is not aligned to a cluster",
                path: file.filename, offset: offset)
        }
        guard layout.cluster(at: HostOffset(offset)) < virginCluster else {
            throw BlockError(
                .corrupt,
                "Refcount block offset 0x\(String(offset, radix: 16)) is beyond the end of the file",
                path: file.filename, offset: offset)
        }
        return HostOffset(offset)
    }

    /// The slot of the slice that holds `cluster`'s refcount, and its entry number there.
    func locate(_ cluster: HostCluster, block: HostOffset) throws(BlockError) -> (slot: Int, entry: Int) {
        if cache.isCrowdedByDirty { try cache.writeBack() }
        let entry = cluster.index % layout.refcountsPerBlock
        let perSlice = (layout.sliceSize * 8) >> layout.refcountOrder
        let slot = try cache.slot(at: block.bytes + entry / perSlice * layout.sliceSize)
        return (slot, entry % perSlice)
    }

    /// The refcount of `cluster`, as stored.
    func refcount(of cluster: HostCluster) throws(BlockError) -> UInt64 {
        guard let block = try blockOffset(cluster) else { return 0 }
        let (slot, entry) = try locate(cluster, block: block)
        return RefcountEntries.get(cache.bytes(of: slot).bytes, entry, order: layout.refcountOrder)
    }

    /// Sets a refcount, and makes the block for it where there is none.
    func set(_ cluster: HostCluster, to value: UInt64) throws(BlockError) {
        let block: HostOffset
        if let existing = try blockOffset(cluster) {
            block = try writableBlock(layout.refcountBlock(of: cluster), at: existing)
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
    func increment(_ cluster: HostCluster) throws(BlockError) {
        let old = try refcount(of: cluster)
        guard old < layout.maximumRefcount else {
            throw BlockError(
                .limit, "Refcount of cluster \(cluster) cannot become larger than \(layout.maximumRefcount)",
                path: file.filename)
        }
        try set(cluster, to: old + 1)
    }

    /// Takes one reference away and returns how many are left. A refcount of zero stays zero: the image is
    /// damaged, and a check reports it.
    @discardableResult
    func decrement(_ cluster: HostCluster) throws(BlockError) -> UInt64 {
        let old = try refcount(of: cluster)
        guard old > 0 else { return 0 }
        try set(cluster, to: old - 1)
        if old == 1 { noteFreed(cluster) }
        return old - 1
    }
}

/// Decides by where the metadata lies, whatever the refcounts are. Called under the driver's lock.
protocol Qcow2ClusterGuard: AnyObject, Sendable {
    /// Whether a cluster with a refcount of zero may be allocated.
    ///
    /// - Throws: `corrupt` when the cluster holds metadata: in a sound image its refcount would not be zero.
    func mayAllocate(_ cluster: HostCluster) throws(BlockError) -> Bool
}
