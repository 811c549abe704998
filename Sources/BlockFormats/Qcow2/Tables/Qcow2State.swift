import BlockCore

/// The tables of an open image: header, L1, L2, refcounts, and the changes that wait for the next flush.
///
/// Not thread-safe: used under the driver's lock.
///
/// Order of writes (``commit()``), with a barrier after each step; a crash between any two leaves leaks at
/// worst:
/// 1. Guest data and new refcounts.
/// 2. The L2 entries that refer to them.
/// 3. The L1 entries that refer to new L2 tables.
/// 4. The lower refcounts of clusters to which nothing refers any more.
///
/// Unchecked: only the driver's monitor hands it from thread to thread.
final class Qcow2State: SessionState, Qcow2ClusterGuard, @unchecked Sendable {
    let file: BlockNode
    /// The file that holds the guest's plain data.
    let data: GuestData
    var header: Qcow2Header
    private(set) var layout: Qcow2Layout
    let l2Cache: TableCache
    /// The active L1 table.
    var l1: [UInt64]
    var dirtyL1: Range<Int>?
    /// The changes that a flush is writing without the lock, those outside the caches included.
    var writes: TableWrites?
    var held = Held()
    /// Loaded when first needed: reading guest data needs no refcounts.
    var loadedRefcounts: Qcow2Allocator?
    /// The first failure to free clusters after a flush, while it is not made good; closing reports it.
    var freeFailure: BlockError?
    /// Clusters that lose a reference once the L2 and L1 entries without it are durable.
    var pendingFrees: [PendingFree] = []
    /// Whether data or metadata was written to the file since the last barrier.
    var hasUnflushedWrites = false
    /// The place for the next compressed cluster, if it fits into the host cluster there; zero for none.
    var freeByteOffset = HostOffset.zero
    /// Whether refcounts in the file may be out of date, because the dirty bit is set.
    var refcountsAreLazy = false
    /// Whether a change of many entries failed half-way: the dirty bit stays set, so that the next opening
    /// repairs the image.
    var needsRepair = false
    /// The bytes of saved machine state that belong to no snapshot yet.
    var savedStateBytes = 0
    var isReadOnly: Bool
    /// The disk size of the snapshot that is read instead of the current state.
    var selectedSize: Int?
    var virtualSize: Int { selectedSize ?? header.virtualSize }
    var showsSnapshot: Bool { selectedSize != nil }
    var backing: BackingReference? { header.backing }
    /// Which freed clusters give their space back to the file system.
    var passesDiscards = Qcow2PassedDiscards()
    /// The kinds of metadata against which writes are checked.
    var overlapChecks = Qcow2OverlapChecks.cached
    /// Whether clusters that the guest discards or zeroes stay allocated.
    var keepsDiscarded = false
    private let caches: Qcow2CacheSizes
    /// Where metadata lies; `nil` before the first change.
    var protection: Qcow2Protection?
    /// Damage that was found while writing.
    var damage: BlockError?
    /// Whether replacing the header failed, and undoing it too: the file may have either header. Nothing else
    /// is written before ``header`` is.
    var headerIsUncertain = false
    /// The bitmaps; `nil` until first used.
    var bitmaps: Qcow2BitmapSet? {
        didSet { if bitmaps == nil { bitmapClusters = Qcow2BitmapClusters() } }
    }
    /// The clusters that hold bits of bitmaps, as far as those were read.
    var bitmapClusters = Qcow2BitmapClusters()
    /// Whether a repair is under way: the metadata may overlap and have refcounts of zero.
    var isRepairing = false
    /// Whether all clusters are being freed: truncating the file gives their space back, not one hole each.
    var isBeingEmptied = false
    /// The file, with the clusters allocated behind its end, has at least this many bytes.
    var knownEnd = 0
    /// Whether an L2 table that is the file's last cluster, and not whole, was found to be legal.
    var knowsPartialTable = false

    /// A run of clusters of which each loses one reference.
    struct PendingFree {
        var clusters: Range<HostCluster>
        /// Whether the guest discarded the data: then the file system gets the space back.
        var discards: Bool
        /// Whether clusters with damaged refcounts stay leaked without an error.
        var leavesDamage = false
    }

    /// Where clusters are taken; very many are taken behind all others.
    enum NewClusters {
        case firstFree
        case behindCounted
        case behindEnd
    }

    /// - Parameter data: the file that holds the guest's data; `nil` for the image's own.
    init(
        file: BlockNode, data: GuestData? = nil, header: Qcow2Header, isReadOnly: Bool,
        caches: Qcow2CacheSizes? = nil
    ) throws(BlockError) {
        self.file = file
        self.data = data ?? GuestData(node: file, child: 0)
        self.header = header
        self.isReadOnly = isReadOnly
        let caches = caches ?? Qcow2CacheSizes(header.layout)
        self.caches = caches
        layout = header.layout
        l2Cache = TableCache(
            file: file, sliceSize: caches.l2SliceBytes, budgetBytes: caches.l2Bytes,
            loadEvent: .l2Load)
        l1 = try BigEndianTable.read(file, at: header.l1Offset, count: header.l1Entries)
    }

    /// The refcounts, loaded on first use.
    func refcounts() throws(BlockError) -> Qcow2Allocator {
        if let loadedRefcounts { return loadedRefcounts }
        let store = try Qcow2Allocator(
            file: file, layout: layout, tableOffset: header.refcountTableOffset,
            tableClusters: header.refcountTableClusters, cacheBytes: caches.refcountBytes)
        store.clusterGuard = self
        loadedRefcounts = store
        return store
    }

    /// Replaces the header in memory by one that was made durable, whose version or refcount width may
    /// differ. No change may be waiting to be written.
    func adopt(_ changed: Qcow2Header) {
        header = changed
        layout = changed.layout
        loadedRefcounts = nil
        protection = nil
        knownEnd = 0
    }

    // MARK: L1 and L2

    func setL1(_ index: Int, to value: UInt64) {
        l1[index] = value
        if value & L2Entry.offsetMask != 0 {
            _ = protection?.filter.insert(layout.cluster(in: value))
        }
        dirtyL1 = dirtyL1.union(index..<index + 1)
    }

    /// The L2 table that maps a guest offset, or `nil` when there is none.
    func l2TableOffset(_ guest: GuestOffset) throws(BlockError) -> HostOffset? {
        let index = layout.l1Index(of: guest)
        guard l1.indices.contains(index) else { return nil }
        return try checkedTable(l1[index], index)
    }

    /// The offset in an L1 entry, checked; `nil` for none.
    func checkedTable(_ entry: UInt64, _ index: Int) throws(BlockError) -> HostOffset? {
        let offset = Int(entry & L2Entry.offsetMask)
        if offset == 0 { return nil }
        guard layout.isAligned(offset) else {
            throw corrupt("L2 table offset 0x\(String(offset, radix: 16)) unaligned (L1 index: \(index))")
        }
        if offset >= knownEnd { try findEnd() }
        let end = offset + layout.clusterSize
        guard offset < knownEnd else {
            throw try file.cutError(
                "L2 table offset 0x\(hex(offset)) (L1 index: \(index))", end: end, at: offset)
        }
        if end > knownEnd, !knowsPartialTable {
            try checkIsWhole("L2 table offset 0x\(hex(offset)) (L1 index: \(index))", offset..<end)
            knowsPartialTable = true
        }
        return HostOffset(offset)
    }

    /// Finds the end of the file, with tables that were just made and are not in the file yet.
    func findEnd() throws(BlockError) {
        let allocated = layout.offset(of: loadedRefcounts?.virginCluster ?? HostCluster(0)).bytes
        knownEnd = max(try file.length(), allocated)
    }

    func corrupt(_ message: String) -> BlockError {
        BlockError(.corrupt, message, path: file.filename)
    }

    /// The slot of the slice with entry `index` of the table at `offset`, and the entry's number in it.
    func l2Slot(table offset: HostOffset, index: Int) throws(BlockError) -> (slot: Int, entry: Int) {
        if l2Cache.isCrowdedByDirty { try commit() }
        let perSlice = l2Cache.sliceSize / layout.l2EntryBytes
        let slot = try l2Cache.slot(at: offset.bytes + index / perSlice * l2Cache.sliceSize)
        return (slot, index % perSlice)
    }

    /// The entry of one guest cluster.
    func entry(at guest: GuestOffset) throws(BlockError) -> L2Entry {
        guard let table = try l2TableOffset(guest) else { return .unallocated }
        let (slot, entry) = try l2Slot(table: table, index: layout.l2Index(of: guest))
        return cachedEntry(slot, entry)
    }

    /// Sets the entry of one guest cluster, whose table is writable already.
    func setEntry(at guest: GuestOffset, to value: L2Entry) throws(BlockError) {
        let (slot, entry) = try changeableL2Slot(guest)
        setCachedEntry(slot, entry, to: value)
    }

    /// Entry number `index` of a cached slice.
    func cachedEntry(_ slot: Int, _ index: Int) -> L2Entry {
        guard layout.hasSubclusters else { return L2Entry(raw: l2Cache.bigEndian64(slot, index)) }
        return L2Entry(
            raw: l2Cache.bigEndian64(slot, index &* 2), bitmap: l2Cache.bigEndian64(slot, index &* 2 &+ 1))
    }

    /// Sets entry number `index` of a cached slice. Also an extended entry lies in one sector.
    func setCachedEntry(_ slot: Int, _ index: Int, to value: L2Entry) {
        guard layout.hasSubclusters else { return l2Cache.setBigEndian64(slot, index, to: value.raw) }
        l2Cache.setBigEndian64(slot, index * 2, to: value.raw)
        l2Cache.setBigEndian64(slot, index * 2 + 1, to: value.bitmap)
    }

    /// The L2 table of a guest offset, made or copied first when it is missing or shared with a snapshot.
    func writableL2Table(_ guest: GuestOffset) throws(BlockError) -> HostOffset {
        try protectMetadata()
        let index = layout.l1Index(of: guest)
        guard l1.indices.contains(index) else { throw corrupt("L1 table is too small") }
        let old = try checkedTable(l1[index], index)
        if let old, l1[index] & L2Entry.copiedFlag != 0 { return old }
        let offset = try fillingNewClusters(1) { offset throws(BlockError) in
            try reserveL1(index..<index + 1)
            if let old { try copyTable(from: old.bytes, to: offset) } else { try clearTable(offset) }
        }
        setL1(index, to: UInt64(offset) | L2Entry.copiedFlag)
        if let old { release(layout.cluster(at: old), count: 1) }
        return HostOffset(offset)
    }

    /// Allocates clusters, fills them, and gives them back when that fails.
    ///
    /// - Parameters:
    ///   - place: where the clusters are allocated.
    ///   - fill: gets the host offset.
    /// - Returns: the host offset.
    func fillingNewClusters(
        _ count: Int, _ place: NewClusters = .firstFree, _ fill: (_ offset: Int) throws(BlockError) -> Void
    ) throws(BlockError) -> Int {
        let store = try refcounts()
        let first =
            switch place {
            case .firstFree: try store.allocate(count)
            case .behindCounted: try store.allocate(count, behindCountedFrom: HostCluster(0))
            case .behindEnd: try store.allocate(count, behindCountedFrom: store.virginCluster)
            }
        let offset = layout.offset(of: first).bytes
        do throws(BlockError) { try fill(offset) } catch {
            if !headerIsUncertain { store.giveBack(first..<first + count) }
            throw error
        }
        return offset
    }

    /// Reserves the file space of the entries' sectors, also where the table was a hole.
    func reserveL1(_ entries: Range<Int>) throws(BlockError) {
        let first = (header.l1Offset + entries.lowerBound * 8).roundedDown(to: Qcow2.sectorBytes)
        let last = (header.l1Offset + entries.upperBound * 8 - 1).roundedDown(to: Qcow2.sectorBytes)
        try file.fillHoles(in: first..<last + Qcow2.sectorBytes)
    }

    /// Writes zeroes over a new table: that precedes the L1 entry that refers to it.
    private func clearTable(_ offset: Int) throws(BlockError) {
        file.emit(.l2AllocateWrite)
        l2Cache.discard(offset..<offset + layout.clusterSize)
        if l2Cache.sliceSize == layout.clusterSize {
            if l2Cache.isCrowdedByDirty { try commit() }
            let slot = try l2Cache.slot(at: offset, load: false)
            try l2Cache.reserve(slot)
            l2Cache.markDirty(slot, 0..<l2Cache.sliceSize)
        } else {
            try file.writeReservedZeroes(at: offset, count: layout.clusterSize)
            hasUnflushedWrites = true
        }
    }

    private func copyTable(from old: Int, to new: Int) throws(BlockError) {
        l2Cache.discard(new..<new + layout.clusterSize)
        // A shared table is never changed in the cache, so the file has its contents.
        file.emit(.l2AllocateCopyRead)
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var bytes = buffer.mutableBytes
        try file.read(into: &bytes, at: old)
        file.emit(.l2AllocateWrite)
        try file.write(buffer.bytes, at: new)
        hasUnflushedWrites = true
    }
}
