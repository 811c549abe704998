import BlockCore

/// Names, numbers and limits of the qcow2 format, versions 2 and 3.
///
/// Source: QEMU, docs/interop/qcow2.rst; sections are named where they are followed.
enum Qcow2 {
    /// "QFI\xfb"
    static let magic: UInt32 = 0x5146_49fb
    static let clusterBitsRange = 9...21
    static let sectorBytes = 512
    static let subclusters = 32
    static let clusterBitsWithSubclusters = 14
    /// Granularities of bitmaps, as powers of two: 512 bytes to 2 GiB.
    static let bitmapGranularityBits = 9...31

    /// What an image may state; everything larger is refused before memory is taken for it.
    enum Limit {
        static let l1TableBytes = 32 << 20
        /// How far behind the end of the file an active L1 table that was never written may start, in bytes.
        static let l1BehindEndBytes = Int.gib(1)
        static let refcountTableBytes = 8 << 20
        static let snapshots = 65536
        static let snapshotTableBytes = 16 << 20
        /// What QEMU accepts; entries with more are read, and cut to this by a repair.
        static let snapshotExtraBytes = 1024
        static let backingNameBytes = 1023
        static let backingFormatBytes = 63
        static let virtualSize = 1 << 61
        /// A LUKS header and its key material; QEMU's take about 2 MiB.
        static let luksHeaderBytes = 16 << 20
        static let bitmapDirectoryBytes: UInt64 = 64 << 20
        static let bitmapTableEntries = 4 << 20
        /// Of all bitmaps together.
        static let allBitmapTableEntries = 64 << 20
        static let bitmaps = 65535
        static let bitmapNameBytes = 1023
        /// How many bits of all enabled bitmaps together are held in memory: 1 GiB.
        static let loadedBitmapBits = 1 << 33
        /// Frees that may wait for the next flush before one is made for them.
        static let pendingFrees = 65536
    }

    /// How much memory the caches may take, in bytes.
    enum CacheBudget {
        /// The tables of 64 GiB with usual clusters, and a few more, so that no change has to make room.
        static let l2Bytes = (8 << 20) + 4 * sliceBytes
        static let refcountBytes = 2 << 20
        /// How many clusters of refcounts are cached at least where both caches share one size.
        static let leastRefcountClusters = 4
        /// Tables are cached in parts of at most this size.
        static let sliceBytes = 65536
    }

    /// Bits of `incompatible_features`: who does not know one must not open the image.
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

    /// Bits of `autoclear_features`: who does not keep one up to date clears it when writing.
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
    /// Guest data lie in a file of their own, each cluster at its guest offset, and are not counted.
    var hasDataFile = false
    /// L2 entries have 16 bytes: a bitmap tells of the 32 subclusters of a cluster (Extended L2 Entries).
    var hasSubclusters = false

    var clusterSize: Int { 1 << clusterBits }
    var l2EntryBytes: Int { hasSubclusters ? 16 : 8 }
    var entriesPerL2Table: Int { clusterSize / l2EntryBytes }
    /// What may be data, zero or unallocated on its own.
    var subclusterSize: Int { hasSubclusters ? clusterSize / Qcow2.subclusters : clusterSize }
    /// Guest bytes that one L2 table maps.
    var guestBytesPerL2Table: Int { entriesPerL2Table << clusterBits }
    var refcountBits: Int { 1 << refcountOrder }
    var maximumRefcount: UInt64 { refcountOrder == 6 ? .max : (1 << UInt64(refcountBits)) - 1 }
    var refcountsPerBlock: Int { 1 << (clusterBits + 3 - refcountOrder) }
    /// Tables are cached and written in parts of this size.
    var sliceSize: Int { min(clusterSize, Qcow2.CacheBudget.sliceBytes) }
    /// Where the sector count starts in a compressed entry.
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
    /// The clusters of a table of so many bytes, which starts with a cluster.
    func clusters(at offset: HostOffset, bytes: Int) -> Range<HostCluster> {
        let first = cluster(at: offset)
        return first..<first + clusters(bytes)
    }
    /// One past the last cluster of a file of so many bytes.
    func endCluster(ofFile bytes: Int) -> HostCluster { HostCluster(clusters(bytes)) }
    /// The number of the L1 entry that maps a place on the disk.
    @inline(__always)
    func l1Index(of guest: GuestOffset) -> Int { guest.bytes / guestBytesPerL2Table }
    /// The number of the L2 entry that maps a place on the disk, in its table.
    @inline(__always)
    func l2Index(of guest: GuestOffset) -> Int { (guest.bytes >> clusterBits) & (entriesPerL2Table - 1) }
    /// The place in an entry of an L1 or refcount table, whose other bits are left out.
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

    /// What the entry says; of an extended one, where the cluster is. Version 2 has no zero flag; only in a
    /// data file may a cluster lie at offset 0.
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

    /// The clusters in which they lie.
    func compressedClusters(_ layout: Qcow2Layout) -> Range<HostCluster> {
        let range = compressedRange(layout)
        let last = layout.cluster(at: range.upperBound - 1)
        return layout.cluster(at: range.lowerBound)..<last + 1
    }

    /// The entry for `size` compressed bytes at `place`; `nil` where the offset does not fit.
    static func compressed(at place: HostOffset, size: Int, _ layout: Qcow2Layout) -> L2Entry? {
        let offset = place.bytes
        let shift = layout.compressedSizeShift
        guard offset >> shift == 0, size > 0 else { return nil }
        let sectors = (offset + size - 1) / Qcow2.sectorBytes - offset / Qcow2.sectorBytes
        return L2Entry(raw: UInt64(offset) | UInt64(sectors) << UInt64(shift) | compressedFlag)
    }
}

extension Qcow2Layout {
    /// How many entries behind number `index` of an L2 table continue it, one cluster further each, with the
    /// same flags; at most `limit`, and none whose offset would carry out of its bits. Not for extended
    /// entries.
    func continuation(of entry: L2Entry, _ index: Int, in table: RawSpan, limit: Int) -> Int {
        let step = UInt64(clusterSize)
        let room = Int((L2Entry.offsetMask &- entry.raw & L2Entry.offsetMask) >> UInt64(clusterBits))
        let end = min(table.byteCount / 8, index &+ 1 &+ min(max(0, limit), room))
        var next = index &+ 1
        var expected = entry.raw &+ step
        // Eight at a time without a branch: the tables of a preallocated disk are one long run.
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
