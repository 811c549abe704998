import Foundation

/// A qcow2 image put together byte by byte from the specification, to be damaged on purpose.
///
/// Clusters of a fresh image: 0 header, 1 refcount table, 2 refcount block, 3 L1 table, 4 L2 table, 5 and 6
/// data of the guest's first two clusters. Offsets and lengths are in bytes. Nothing of the driver's own is
/// used.
public struct Qcow2Bytes: Sendable {
    public private(set) var bytes = SparseBytes()
    public let version: Int
    public let clusterBits: Int
    public let refcountOrder: Int
    public let virtualSize: Int

    public var clusterSize: Int { 1 << clusterBits }
    public var refcountTable: Int { Cluster.refcountTable * clusterSize }
    public var refcountBlock: Int { Cluster.refcountBlock * clusterSize }
    public var l1: Int { Cluster.l1 * clusterSize }
    public var l2: Int { Cluster.l2 * clusterSize }
    public var data: Int { Cluster.data * clusterSize }
    public var end: Int { bytes.count }

    /// A sound image with two clusters of data.
    public init(version: Int = 3, clusterBits: Int = 16, virtualSize: Int? = nil, refcountOrder: Int = 4) {
        self.version = version
        self.clusterBits = clusterBits
        self.refcountOrder = version == 2 ? 4 : refcountOrder
        self.virtualSize = virtualSize ?? 16 << clusterBits
        bytes.resize(to: Cluster.end << clusterBits)
        putHeader()
        put64(UInt64(refcountBlock), at: refcountTable)
        for cluster in 0..<Cluster.end { putRefcount(1, of: cluster) }
        put64(UInt64(l2) | Self.copied, at: l1)
        for cluster in 0..<2 {
            setL2(cluster, UInt64(data + cluster << clusterBits) | Self.copied)
            bytes.write(
                [UInt8](repeating: UInt8(0xa0 + cluster), count: clusterSize),
                at: data + cluster << clusterBits)
        }
    }

    private mutating func putHeader() {
        put32(0x5146_49fb, at: Field.magic)
        put32(UInt32(version), at: Field.version)
        put32(UInt32(clusterBits), at: Field.clusterBits)
        put64(UInt64(virtualSize), at: Field.size)
        let perTable = 1 << (2 * clusterBits - 3)
        put32(UInt32(clamping: max(1, (virtualSize + perTable - 1) / perTable)), at: Field.l1Entries)
        put64(UInt64(l1), at: Field.l1Offset)
        put64(UInt64(refcountTable), at: Field.refcountOffset)
        put32(1, at: Field.refcountClusters)
        guard version >= 3 else { return }
        put32(UInt32(refcountOrder), at: Field.refcountOrder)
        put32(UInt32(Field.extensions), at: Field.headerLength)
    }

    // MARK: Changing

    public mutating func put16(_ value: UInt16, at offset: Int) { put(value, at: offset) }
    public mutating func put32(_ value: UInt32, at offset: Int) { put(value, at: offset) }
    public mutating func put64(_ value: UInt64, at offset: Int) { put(value, at: offset) }
    public mutating func write(_ data: [UInt8], at offset: Int) { bytes.write(data, at: offset) }
    public mutating func resize(to length: Int) { bytes.resize(to: length) }
    /// The big-endian number at `offset`.
    public func get64(_ offset: Int) -> UInt64 {
        bytes.read(at: offset, count: 8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    private mutating func put(_ value: some FixedWidthInteger, at offset: Int) {
        bytes.write(ImageBytes.big(value), at: offset)
    }

    /// Sets the entry of a guest cluster in the first L2 table.
    public mutating func setL2(_ cluster: Int, _ entry: UInt64) { put64(entry, at: l2 + cluster * 8) }

    /// Stores `payload` as a compressed guest cluster at `offset`, and claims that it takes `sectors` more.
    public mutating func setCompressed(
        _ cluster: Int, _ payload: [UInt8], at offset: Int, sectors: Int? = nil
    ) {
        write(payload, at: offset)
        let more = sectors ?? (offset + max(1, payload.count) - 1) / 512 - offset / 512
        setL2(cluster, Self.compressed | UInt64(offset) | UInt64(more) << UInt64(62 - (clusterBits - 8)))
    }

    /// Sets a refcount in the first block.
    public mutating func putRefcount(_ count: UInt64, of cluster: Int) {
        switch refcountOrder {
        case 4: put16(UInt16(truncatingIfNeeded: count), at: refcountBlock + cluster * 2)
        case 5: put32(UInt32(truncatingIfNeeded: count), at: refcountBlock + cluster * 4)
        case 6: put64(count, at: refcountBlock + cluster * 8)
        default:
            let bit = cluster << refcountOrder
            let mask = UInt8((1 << (1 << refcountOrder)) - 1)
            let old = bytes.read(at: refcountBlock + bit / 8, count: 1)[0]
            let shift = UInt8(bit % 8)
            let value = UInt8(truncatingIfNeeded: count) & mask
            bytes.write([old & ~(mask << shift) | value << shift], at: refcountBlock + bit / 8)
        }
    }

    /// Adds a whole cluster at the end, counted once, and answers its offset.
    public mutating func addCluster(_ contents: [UInt8] = []) -> Int {
        let offset = (end + clusterSize - 1) / clusterSize * clusterSize
        bytes.resize(to: offset + clusterSize)
        bytes.write(contents, at: offset)
        putRefcount(1, of: offset / clusterSize)
        return offset
    }

    /// Puts a backing name behind the fixed header, with its extension area ended.
    public mutating func setBacking(_ name: [UInt8], at offset: Int = 256, statedSize: UInt32? = nil) {
        put64(UInt64(offset), at: Field.backingOffset)
        put32(statedSize ?? UInt32(name.count), at: Field.backingSize)
        write(name, at: offset)
    }

    /// Puts header extensions behind the fixed header, followed by the end marker.
    public mutating func setExtensions(_ list: [(type: UInt32, data: [UInt8])]) {
        var offset = version == 2 ? Field.version2Extensions : Field.extensions
        for (type, data) in list {
            put32(type, at: offset)
            put32(UInt32(data.count), at: offset + Extension.length)
            write(data, at: offset + Extension.data)
            offset += Extension.data + (data.count + 7) / 8 * 8
        }
        put64(0, at: offset)
    }

    /// Appends a snapshot table of one entry and an L1 table of its own that shares nothing.
    ///
    /// - Returns: where the table is; the fields of the entry lie as in the specification.
    @discardableResult
    public mutating func addSnapshot(name: String = "one") -> Int {
        let snapshotL1 = addCluster()
        var entry = [UInt8](repeating: 0, count: Snapshot.id)
        let text = Array("1".utf8) + Array(name.utf8)
        entry += text + [UInt8](repeating: 0, count: 8 - text.count % 8)
        let table = addCluster(entry)
        put64(UInt64(snapshotL1), at: table + Snapshot.l1Offset)
        put32(1, at: table + Snapshot.l1Entries)
        put16(1, at: table + Snapshot.idSize)
        put16(UInt16(name.utf8.count), at: table + Snapshot.nameSize)
        put32(UInt32(Snapshot.id - Snapshot.extra), at: table + Snapshot.extraSize)
        put64(UInt64(virtualSize), at: table + Snapshot.diskSize)
        put32(1, at: Field.snapshotCount)
        put64(UInt64(table), at: Field.snapshotsOffset)
        return table
    }

    /// Stores the image in a file; what was never written stays a hole.
    public func store(at path: String) throws { try bytes.store(at: path) }
}
