import BlockCore

/// The header. Its fields are in QedHeaderFields.swift.
struct QedHeader: Sendable, Equatable {
    var clusterBytes = 0
    var tableClusters = 0
    var headerClusters = 0
    var features: UInt64 = 0
    var compatible: UInt64 = 0
    var autoclear: UInt64 = 0
    var l1Offset = 0
    var virtualSize = 0
    var backingOffset = 0
    var backingBytes = 0
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
        guard bytes.count >= Qed.headerBytes, magicField.number(in: span) == UInt64(Qed.magic) else {
            throw BlockError(.wrongFormat, "Image not in QED format")
        }
        var header = QedHeader()
        try header.readFields(span)
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
    func serialised() -> [UInt8] { fieldBytes(count: Qed.headerBytes) }
}
