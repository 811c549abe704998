import BlockCore

/// The header. Its fields are in QcowHeaderFields.swift.
struct QcowHeader: Sendable, Equatable {
    var backingOffset = 0
    var backingBytes = 0
    /// The backing file's time as other programs store it; left unchanged.
    var modificationTime: UInt32 = 0
    /// The stored size in bytes; the guest sees the whole sectors of it.
    var storedSize = 0
    var clusterBits = 0
    var tableBits = 0
    var isEncrypted = false
    var l1Offset = 0
    var backing: BackingReference?

    var virtualSize: Int { storedSize.roundedDown(to: Qcow.sectorBytes) }
    var clusterBytes: Int { 1 << clusterBits }
    var tableBytes: Int { 8 << tableBits }
    var entriesPerTable: Int { 1 << tableBits }
    /// Guest bytes that one L2 table maps.
    var guestBytesPerTable: Int { 1 << (clusterBits + tableBits) }
    var l1Entries: Int { l1Entries(for: storedSize) }
    var l1Range: Range<Int> { l1Offset..<l1Offset + l1Entries * 8 }
    /// The bytes of the backing file's name in the file; empty without one.
    var nameRange: Range<Int> { backingOffset..<backingOffset + backingBytes }

    func l1Entries(for size: Int) -> Int {
        size / guestBytesPerTable + (size % guestBytesPerTable == 0 ? 0 : 1)
    }

    /// - Throws: `wrongFormat`, `unsupported` or `corrupt`, with the reason.
    static func parse(_ bytes: [UInt8], fileLength: Int) throws(BlockError) -> QcowHeader {
        let span = bytes.span.bytes
        guard bytes.count >= Qcow.headerBytes, magicField.number(in: span) == UInt64(Qcow.magic) else {
            throw BlockError(.wrongFormat, "Image not in qcow format")
        }
        let version = versionField.number(in: span)
        guard version == UInt64(Qcow.version) else {
            throw BlockError(.unsupported, "qcow (v\(version)) does not support qcow version \(version)")
        }
        var header = QcowHeader()
        try header.readFields(span)
        try header.validate(fileLength)
        return header
    }

    private func validate(_ fileLength: Int) throws(BlockError) {
        guard Qcow.Limit.clusterBits.contains(clusterBits) else {
            throw BlockError(.corrupt, "Cluster size must be between 512 and 64k (2^\(clusterBits) bytes)")
        }
        guard Qcow.Limit.tableBits.contains(tableBits) else {
            throw BlockError(.corrupt, "L2 table size must be between 512 and 64k (2^\(tableBits) entries)")
        }
        guard storedSize > 1 else {
            throw BlockError(.corrupt, "Image size is too small (must be at least 2 bytes)")
        }
        guard l1Entries <= Qcow.Limit.l1Entries else { throw BlockError(.limit, "Image too large") }
        guard l1Offset >= Qcow.headerBytes, l1Offset % 8 == 0, l1Offset <= fileLength,
            l1Entries * 8 <= fileLength - l1Offset
        else { throw BlockError(.corrupt, "The qcow L1 table is misplaced (offset \(l1Offset))") }
        guard backingBytes > 0 else { return }
        guard backingBytes <= Qcow.Limit.backingNameBytes else {
            throw BlockError(.limit, "Backing file name too long")
        }
        guard backingOffset >= Qcow.headerBytes, backingOffset <= fileLength,
            backingBytes <= fileLength - backingOffset, !nameRange.overlaps(l1Range)
        else { throw BlockError(.corrupt, "The qcow backing file name is misplaced") }
    }

    /// The fixed fields: less than a sector, so that they are written atomically.
    func serialised() -> [UInt8] { fieldBytes(count: Qcow.headerBytes) }
}

/// An L2 entry: 0, or an offset in the file. Bit 63 is set for a compressed cluster; the `clusterBits` bits
/// below it then hold its size in bytes.
enum QcowEntry: Equatable {
    case unallocated
    case data(Int)
    case compressed(Range<Int>)

    static let compressedFlag: UInt64 = 1 << 63

    init(_ raw: UInt64, clusterBits: Int) {
        if raw == 0 {
            self = .unallocated
        } else if raw & Self.compressedFlag == 0 {
            self = .data(Int(raw))
        } else {
            let shift = UInt64(63 - clusterBits)
            let size = Int(raw >> shift & (1 << UInt64(clusterBits) - 1))
            let offset = Int(raw & (1 << shift - 1))
            self = .compressed(offset..<offset + size)
        }
    }

    /// The entry of a compressed cluster; `nil` for a place that the entry's bits cannot hold.
    static func compressed(_ place: Range<Int>, clusterBits: Int) -> UInt64? {
        let shift = UInt64(63 - clusterBits)
        guard place.lowerBound < 1 << shift, place.count < 1 << clusterBits else { return nil }
        return compressedFlag | UInt64(place.count) << shift | UInt64(place.lowerBound)
    }
}
