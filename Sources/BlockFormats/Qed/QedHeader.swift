import BlockCore

/// The header, all little-endian:
///
/// ```
/// 00 magic  04 cluster size  08 table size (clusters)  0C header size (clusters)
/// 10 features (8)  18 compatible features (8)  20 autoclear features (8)
/// 28 offset of the L1 table (8)  30 image size (8)  38 backing name: offset, 3C size
/// ```
struct QedHeader: Sendable, Equatable {
    var clusterBytes: Int
    var tableClusters: Int
    var headerClusters: Int
    var features: UInt64
    var compatible: UInt64
    var autoclear: UInt64
    var l1Offset: Int
    var virtualSize: Int
    var backingOffset: Int
    var backingBytes: Int
    var backing: BackingReference?

    var tableBytes: Int { tableClusters * clusterBytes }
    var entriesPerTable: Int { tableBytes / 8 }
    /// Guest bytes that one L2 table maps.
    var guestBytesPerTable: Int { entriesPerTable * clusterBytes }
    var sliceBytes: Int { min(tableBytes, Qed.sliceBytes) }
    var needsCheck: Bool { features & Qed.Feature.needCheck != 0 }
    /// The largest number of L2 tables whose guest offsets stay below 2^62.
    var mappableTables: Int { min(entriesPerTable, (1 << 62) / guestBytesPerTable) }
    /// The number of L2 tables that the disk can have.
    var tableCount: Int {
        virtualSize / guestBytesPerTable + (virtualSize % guestBytesPerTable == 0 ? 0 : 1)
    }

    /// The largest disk that tables of this size can map, in bytes.
    static func largestDisk(clusterBytes: Int, tableClusters: Int) -> Int {
        let entries = tableClusters * clusterBytes / 8
        let (bytes, overflow) = (entries * entries).multipliedReportingOverflow(by: clusterBytes)
        return overflow ? Qed.Limit.virtualSize : min(bytes, Qed.Limit.virtualSize)
    }

    /// Whether tables of this size map less than 2^64 bytes, as QEMU requires.
    static func isUsable(clusterBytes: Int, tableClusters: Int) -> Bool {
        let entries = tableClusters * clusterBytes / 8
        return UInt(entries * entries).multipliedReportingOverflow(by: UInt(clusterBytes)).overflow == false
    }

    /// - Throws: `wrongFormat`, `unsupported` or `corrupt`, with the reason.
    static func parse(_ bytes: [UInt8], fileLength: Int) throws(BlockError) -> QedHeader {
        let span = bytes.span.bytes
        guard bytes.count >= Qed.headerBytes, span.small(0) == Int(Qed.magic) else {
            throw BlockError(.wrongFormat, "Image not in QED format")
        }
        let features: UInt64 = span.littleEndian(at: 0x10) ?? 0
        guard features & ~Qed.Feature.known == 0 else {
            let unknown = String(features & ~Qed.Feature.known, radix: 16)
            throw BlockError(.unsupported, "Unsupported QED features: \(unknown)")
        }
        let header = QedHeader(
            clusterBytes: span.small(4), tableClusters: span.small(8), headerClusters: span.small(12),
            features: features, compatible: span.littleEndian(at: 0x18) ?? 0,
            autoclear: span.littleEndian(at: 0x20) ?? 0, l1Offset: try span.large(0x28),
            virtualSize: try span.large(0x30), backingOffset: span.small(0x38), backingBytes: span.small(0x3C)
        )
        try header.validate(fileLength)
        return header
    }

    private func validate(_ fileLength: Int) throws(BlockError) {
        guard Qed.Limit.clusterBytes.contains(clusterBytes), clusterBytes.isPowerOfTwo else {
            throw BlockError(.corrupt, "QED cluster size \(clusterBytes) is not allowed")
        }
        guard Qed.Limit.tableClusters.contains(tableClusters), tableClusters.isPowerOfTwo else {
            throw BlockError(.corrupt, "QED table size \(tableClusters) is not allowed")
        }
        guard headerClusters > 0, headerClusters <= Int(UInt32.max) / clusterBytes else {
            throw BlockError(.corrupt, "QED header size \(headerClusters) is not allowed")
        }
        guard virtualSize % Qed.sectorBytes == 0,
            virtualSize <= Self.largestDisk(clusterBytes: clusterBytes, tableClusters: tableClusters)
        else { throw BlockError(.corrupt, "QED image size \(virtualSize) is not allowed") }
        guard isTable(at: l1Offset, fileLength) else {
            throw BlockError(.corrupt, "The QED L1 table is misplaced (offset \(l1Offset))")
        }
        guard features & Qed.Feature.backingFile != 0 else { return }
        guard backingBytes <= Qed.Limit.backingNameBytes, backingOffset >= Qed.headerBytes,
            backingOffset + backingBytes <= headerClusters * clusterBytes
        else { throw BlockError(.corrupt, "The QED backing file name is misplaced or too long") }
    }

    /// Whether a table can be at `offset`.
    func isTable(at offset: Int, _ fileLength: Int) -> Bool {
        offset % clusterBytes == 0 && offset >= headerClusters * clusterBytes && offset <= fileLength
            && tableBytes <= fileLength - offset
    }

    /// The fixed fields.
    func serialised() -> [UInt8] {
        var result = [UInt8](repeating: 0, count: Qed.headerBytes)
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        for (value, place) in [
            (Int(Qed.magic), 0), (clusterBytes, 4), (tableClusters, 8), (headerClusters, 12),
            (backingOffset, 0x38), (backingBytes, 0x3C),
        ] {
            span.storeLittleEndian(UInt32(truncatingIfNeeded: value), at: place)
        }
        for (value, place) in [
            (features, 0x10), (compatible, 0x18), (autoclear, 0x20), (UInt64(l1Offset), 0x28),
            (UInt64(virtualSize), 0x30),
        ] {
            span.storeLittleEndian(value, at: place)
        }
        return result
    }
}

extension RawSpan {
    fileprivate func small(_ offset: Int) -> Int {
        let value: UInt32? = littleEndian(at: offset)
        return Int(value ?? 0)
    }

    fileprivate func large(_ offset: Int) throws(BlockError) -> Int {
        let value: UInt64 = littleEndian(at: offset) ?? 0
        guard let number = Int(exactly: value) else {
            throw BlockError(.corrupt, "A number in the QED header is too large (\(value))")
        }
        return number
    }
}
