import BlockCore

/// Names, numbers and limits of the qcow2 format, versions 2 and 3.
///
/// Source: "Qcow2 Image File Format", QEMU, docs/interop/qcow2.rst,
/// https://www.qemu.org/docs/master/interop/qcow2.html. Comments name the sections that they follow.
enum Qcow2 {
    /// "QFI\xfb"
    static let magic: UInt32 = 0x5146_49fb
    static let clusterBitsRange = 9...21
    static let sectorBytes = 512
    static let subclusters = 32
    static let clusterBitsWithSubclusters = 14
    /// Granularities of bitmaps, as powers of two: 512 bytes to 2 GiB.
    static let bitmapGranularityBits = 9...31

    /// Limits on the numbers that an image states; larger ones are refused before memory is allocated for
    /// them.
    enum Limit {
        static let l1TableBytes = 32 << 20
        /// How far behind the end of the file an active L1 table that was never written may start, in bytes.
        static let l1BehindEndBytes = Int.gib(1)
        static let refcountTableBytes = 8 << 20
        static let snapshots = 65536
        static let snapshotTableBytes = 16 << 20
        /// The most extra data of an entry that QEMU accepts. Entries with more are read, and cut to this by
        /// a repair.
        static let snapshotExtraBytes = 1024
        static let backingNameBytes = 1023
        static let backingFormatBytes = 63
        static let virtualSize = 1 << 61
        /// A LUKS header with its key material; those that QEMU makes take about 2 MiB.
        static let luksHeaderBytes = 16 << 20
        static let bitmapDirectoryBytes: UInt64 = 64 << 20
        static let bitmapTableEntries = 4 << 20
        /// Of all bitmaps together.
        static let allBitmapTableEntries = 64 << 20
        static let bitmaps = 65535
        static let bitmapNameBytes = 1023
        /// How many bits of all enabled bitmaps together are held in memory: 1 GiB.
        static let loadedBitmapBits = 1 << 33
        /// How many freed runs may wait for the next flush; one more makes the driver flush.
        static let pendingFrees = 65536
    }

    /// The memory of the caches, in bytes.
    enum CacheBudget {
        /// The L2 tables of a 64 GiB disk with 64 KiB clusters, and a few slices more, so that no change
        /// evicts one of them.
        static let l2Bytes = (8 << 20) + 4 * sliceBytes
        static let refcountBytes = 2 << 20
        /// The least number of cached clusters of refcounts where both caches share one size.
        static let leastRefcountClusters = 4
        /// Tables are cached in slices of at most this size.
        static let sliceBytes = 65536
    }

    /// Bits of `incompatible_features`: a program that does not know one must not open the image.
    struct Incompatible: OptionSet, Sendable {
        let rawValue: UInt64
        static let dirty = Incompatible(rawValue: 1 << 0)
        static let corrupt = Incompatible(rawValue: 1 << 1)
        static let dataFile = Incompatible(rawValue: 1 << 2)
        static let compressionType = Incompatible(rawValue: 1 << 3)
        static let extendedL2 = Incompatible(rawValue: 1 << 4)
        static let known: Incompatible = [.dirty, .corrupt, .dataFile, .compressionType, .extendedL2]
    }

    /// Bits of `compatible_features`.
    enum Compatible {
        static let lazyRefcounts: UInt64 = 1 << 0
    }

    /// Bits of `autoclear_features`: a program that does not keep the feature's data up to date clears the
    /// bit when it writes.
    enum Autoclear {
        static let bitmaps: UInt64 = 1 << 0
        static let dataFileRaw: UInt64 = 1 << 1
    }

    /// Types of header extensions.
    enum ExtensionType {
        static let end: UInt32 = 0
        static let backingFormat: UInt32 = 0xE279_2ACA
        static let featureNames: UInt32 = 0x6803_F857
        static let bitmaps: UInt32 = 0x2385_2875
        static let encryption: UInt32 = 0x0537_BE77
        static let dataFile: UInt32 = 0x4441_5441
    }

    enum CompressionType: UInt8, Sendable {
        case zlib = 0
        case zstd = 1

        var name: String { self == .zlib ? "zlib" : "zstd" }
    }
}

/// The sizes that follow from a header. All in bytes unless the name says otherwise.
struct Qcow2Layout: Sendable, Equatable {
    var version: Int
    let clusterBits: Int
    var refcountOrder: Int
    /// Whether guest data lies in a file of its own, each cluster at its guest offset and without a refcount.
    var hasDataFile = false
    /// Whether L2 entries have 16 bytes, with a bitmap of the cluster's 32 subclusters (section "Extended L2
    /// Entries").
    var hasSubclusters = false

    var clusterSize: Int { 1 << clusterBits }
    var l2EntryBytes: Int { hasSubclusters ? 16 : 8 }
    var entriesPerL2Table: Int { clusterSize / l2EntryBytes }
    /// The bytes of the unit that is data, zero or unallocated on its own: a subcluster, or else a cluster.
    var subclusterSize: Int { hasSubclusters ? clusterSize / Qcow2.subclusters : clusterSize }
    /// Guest bytes that one L2 table maps.
    var guestBytesPerL2Table: Int { entriesPerL2Table << clusterBits }
    var refcountBits: Int { 1 << refcountOrder }
    var maximumRefcount: UInt64 { refcountOrder == 6 ? .max : (1 << UInt64(refcountBits)) - 1 }
    var refcountsPerBlock: Int { 1 << (clusterBits + 3 - refcountOrder) }
    /// The bytes of a slice: the part in which tables are cached and written.
    var sliceSize: Int { min(clusterSize, Qcow2.CacheBudget.sliceBytes) }
    /// The lowest bit of the sector count in a compressed entry.
    var compressedSizeShift: Int { 62 - (clusterBits - 8) }

    /// How many L1 entries a disk of that size needs.
    func l1Entries(forVirtualSize size: Int) -> Int {
        let perTable = guestBytesPerL2Table
        return size / perTable + (size % perTable == 0 ? 0 : 1)
    }

    /// The number of clusters that `bytes` take.
    func clusters(_ bytes: Int) -> Int { (bytes >> clusterBits) + (bytes & (clusterSize - 1) == 0 ? 0 : 1) }

    /// The cluster in which a byte of the file lies.
    @inline(__always)
    func cluster(at offset: HostOffset) -> HostCluster { HostCluster(offset.bytes >> clusterBits) }
    /// Where a cluster starts.
    @inline(__always)
    func offset(of cluster: HostCluster) -> HostOffset { HostOffset(cluster.index << clusterBits) }
    /// The bytes of the file that a cluster has.
    func bytes(of cluster: HostCluster) -> Range<Int> {
        let start = offset(of: cluster).bytes
        return start..<start + clusterSize
    }
    /// The clusters of a table of `bytes` bytes at the start of a cluster.
    func clusters(at offset: HostOffset, bytes: Int) -> Range<HostCluster> {
        let first = cluster(at: offset)
        return first..<first + clusters(bytes)
    }
    /// One past the last cluster of a file of `bytes` bytes.
    func endCluster(ofFile bytes: Int) -> HostCluster { HostCluster(clusters(bytes)) }
    /// The index of the L1 entry that maps a guest offset.
    @inline(__always)
    func l1Index(of guest: GuestOffset) -> Int { guest.bytes / guestBytesPerL2Table }
    /// The index in its table of the L2 entry that maps a guest offset.
    @inline(__always)
    func l2Index(of guest: GuestOffset) -> Int { (guest.bytes >> clusterBits) & (entriesPerL2Table - 1) }
    /// The offset in an entry of an L1 or refcount table, without the entry's other bits.
    @inline(__always)
    func offset(in entry: UInt64) -> HostOffset { HostOffset(Int(entry & L2Entry.offsetMask)) }
    /// The cluster that an entry of an L1 or refcount table refers to.
    @inline(__always)
    func cluster(in entry: UInt64) -> HostCluster { cluster(at: offset(in: entry)) }
    /// The number of the refcount block that counts a cluster.
    @inline(__always)
    func refcountBlock(of cluster: HostCluster) -> Int { cluster.index / refcountsPerBlock }
    /// The first cluster that a refcount block counts.
    @inline(__always)
    func firstCluster(ofBlock index: Int) -> HostCluster { HostCluster(index * refcountsPerBlock) }

    func roundedDown(_ offset: Int) -> Int { offset & ~(clusterSize - 1) }
    func isAligned(_ offset: Int) -> Bool { offset & (clusterSize - 1) == 0 }
    func isAligned(_ offset: HostOffset) -> Bool { isAligned(offset.bytes) }
}

/// An entry of an L2 table (section "Cluster mapping").
struct L2Entry: Equatable, Sendable {
    var raw: UInt64
    /// The subclusters of an extended entry: 32 bits "allocated", then 32 bits "zero"; else 0.
    var bitmap: UInt64 = 0

    static let copiedFlag: UInt64 = 1 << 63
    static let compressedFlag: UInt64 = 1 << 62
    static let zeroFlag: UInt64 = 1
    static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00

    static let unallocated = L2Entry(raw: 0)
    static let zeroPlain = L2Entry(raw: zeroFlag)

    /// A cluster of plain data whose refcount is one.
    static func data(at hostOffset: HostOffset) -> L2Entry {
        L2Entry(raw: UInt64(hostOffset.bytes) | copiedFlag)
    }

    enum Kind: Equatable {
        case unallocated
        case zeroPlain
        case zeroAllocated
        case data
        case compressed
    }

    var isCopied: Bool { raw & Self.copiedFlag != 0 }
    var isCompressed: Bool { raw & Self.compressedFlag != 0 }
    /// Meaningless for compressed clusters.
    var hostOffset: HostOffset { HostOffset(Int(raw & Self.offsetMask)) }

    /// The cluster's kind; of an extended entry, whether the cluster has a place, whatever its subclusters
    /// are. Version 2 has no zero flag; only in a data file may a cluster lie at offset 0.
    func kind(_ layout: Qcow2Layout) -> Kind {
        if isCompressed { return .compressed }
        let isZero = layout.version >= 3 && !layout.hasSubclusters && raw & Self.zeroFlag != 0
        if hostOffset == .zero && !(layout.hasDataFile && isCopied) {
            return isZero ? .zeroPlain : .unallocated
        }
        return isZero ? .zeroAllocated : .data
    }

    /// Where a compressed cluster's bytes are: the host range, whose end is rounded to a sector.
    func compressedRange(_ layout: Qcow2Layout) -> Range<HostOffset> {
        let shift = UInt64(layout.compressedSizeShift)
        let offset = Int(raw & ((1 << shift) - 1))
        let sizeMask: UInt64 = (1 << UInt64(layout.clusterBits - 8)) - 1
        let sectors = Int((raw >> shift) & sizeMask) + 1
        let end = (offset & ~(Qcow2.sectorBytes - 1)) + sectors * Qcow2.sectorBytes
        return HostOffset(offset)..<HostOffset(end)
    }

    /// The clusters in which the compressed bytes lie.
    func compressedClusters(_ layout: Qcow2Layout) -> Range<HostCluster> {
        let range = compressedRange(layout)
        let last = layout.cluster(at: range.upperBound - 1)
        return layout.cluster(at: range.lowerBound)..<last + 1
    }

    /// The entry for `size` compressed bytes at `place`; `nil` where the offset does not fit into the entry.
    static func compressed(at place: HostOffset, size: Int, _ layout: Qcow2Layout) -> L2Entry? {
        let offset = place.bytes
        let shift = layout.compressedSizeShift
        guard offset >> shift == 0, size > 0 else { return nil }
        let sectors = (offset + size - 1) / Qcow2.sectorBytes - offset / Qcow2.sectorBytes
        return L2Entry(raw: UInt64(offset) | UInt64(sectors) << UInt64(shift) | compressedFlag)
    }
}

extension Qcow2Layout {
    /// The number of entries behind entry `index` of an L2 table that continue it: one cluster further each,
    /// with the same flags. At most `limit`; it stops before an offset that would overflow its bits. Not for
    /// extended entries.
    func continuation(of entry: L2Entry, _ index: Int, in table: RawSpan, limit: Int) -> Int {
        let step = UInt64(clusterSize)
        let room = Int((L2Entry.offsetMask &- entry.raw & L2Entry.offsetMask) >> UInt64(clusterBits))
        let end = min(table.byteCount / 8, index &+ 1 &+ min(max(0, limit), room))
        var next = index &+ 1
        var expected = entry.raw &+ step
        // Compares eight entries at a time without a branch: the tables of a preallocated disk are one long
        // run.
        while next &+ 8 <= end {
            var difference: UInt64 = 0
            for lane in 0..<8 {
                let raw = table.unsafeLoadUnaligned(fromByteOffset: (next &+ lane) &* 8, as: UInt64.self)
                difference |= UInt64(bigEndian: raw) ^ (expected &+ UInt64(lane) &* step)
            }
            if difference != 0 { break }
            next &+= 8
            expected &+= 8 &* step
        }
        while next < end, table.bigEndian(UInt64.self, at: next &* 8) == expected {
            next &+= 1
            expected &+= step
        }
        return next &- index &- 1
    }
}
