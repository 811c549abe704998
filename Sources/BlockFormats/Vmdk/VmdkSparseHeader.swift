import BlockCore

/// The header of a sparse extent: one sector of a hosted one, four of a COW disk. Numbers are little-endian.
///
///     hosted ("KDMV")                          COW disk ("COWD")
///       0  magic           4  version            0  magic          4  version
///       8  flags          12  capacity           8  flags         12  capacity (32 bits)
///      20  grain size     28  descriptor        16  grain size    20  directory (32 bits)
///      36  its size       44  entries a table   24  its entries   28  first free sector
///      48  redundant directory
///      56  directory      64  overhead
///      72  unclean        73  "\n \r\n"
///      77  compression (16 bits)
///
/// Sizes and places in the file are in sectors; the properties are in bytes unless their name has another
/// unit.
struct VmdkSparseHeader: Equatable {
    enum Kind { case hosted, cow }

    static let hostedBytes = 512
    private static let checkBytes: [UInt8] = [0x0A, 0x20, 0x0D, 0x0A]

    var kind = Kind.hosted
    var version: UInt32 = 1
    var flags: UInt32 = Vmdk.Flag.newlineTest
    var capacitySectors: Int
    var grainSectors = Vmdk.grainSectors
    var descriptorOffset = 0
    var descriptorBytes = 0
    var tableEntries = Vmdk.tableEntries
    /// `nil` when there is none.
    var redundantDirectoryOffset: Int?
    var directoryOffset = 0
    /// The stated end of the metadata, in bytes; it can be too low.
    var overheadBytes = 0
    var isAtEnd = false
    /// The bytes that were read; unknown fields stay unchanged.
    var bytes: [UInt8]

    var grainBytes: Int { grainSectors * Vmdk.sectorBytes }
    var capacityBytes: Int { capacitySectors * Vmdk.sectorBytes }
    var tableBytes: Int { tableEntries * 4 }
    var tableSectors: Int { tableBytes / Vmdk.sectorBytes }
    /// The sectors of the disk that one grain table covers.
    var sectorsPerTable: Int { tableEntries * grainSectors }
    var directoryEntries: Int { (capacitySectors + sectorsPerTable - 1) / sectorsPerTable }
    var directoryBytes: Int {
        (directoryEntries * 4 + Vmdk.sectorBytes - 1).roundedDown(to: Vmdk.sectorBytes)
    }
    var isCompressed: Bool { flags & Vmdk.Flag.compressed != 0 }
    var hasMarkers: Bool { flags & Vmdk.Flag.markers != 0 }
    var hasZeroGrains: Bool { kind == .hosted && flags & Vmdk.Flag.zeroedGrains != 0 }

    /// - Parameter bytes: the first sector.
    /// - Throws: `wrongFormat`, `corrupt`, `unsupported`, `limit`.
    static func parse(_ bytes: [UInt8]) throws(BlockError) -> VmdkSparseHeader {
        let span = bytes.span.bytes
        let magic: UInt32? = span.littleEndian(at: 0)
        guard bytes.count >= hostedBytes, magic == Vmdk.sparseMagic || magic == Vmdk.cowMagic else {
            throw BlockError(.wrongFormat, "The file is no sparse extent of a VMDK image")
        }
        let header = magic == Vmdk.cowMagic ? try parseCow(bytes) : try parseHosted(bytes)
        try header.checkSizes()
        return header
    }

    private static func parseHosted(_ bytes: [UInt8]) throws(BlockError) -> VmdkSparseHeader {
        let span = bytes.span.bytes
        func word(_ offset: Int) -> UInt32 { span.littleEndian(at: offset) ?? 0 }
        func sectors(_ offset: Int) throws(BlockError) -> Int {
            let value: UInt64 = span.littleEndian(at: offset) ?? 0
            guard value <= UInt64(Int.max >> 10) else {
                throw BlockError(.corrupt, "The header has a number that is too large (at \(offset))")
            }
            return Int(value)
        }
        var header = VmdkSparseHeader(capacitySectors: try sectors(12), bytes: bytes)
        header.version = word(4)
        header.flags = word(8)
        guard (1...3).contains(header.version) else {
            throw BlockError(.unsupported, "Unsupported VMDK version \(header.version)")
        }
        if header.flags & Vmdk.Flag.newlineTest != 0 {
            guard Array(bytes[73..<77]) == checkBytes else {
                throw BlockError(.corrupt, "The line feeds of the file were changed on a transfer as text")
            }
        }
        header.grainSectors = try sectors(20)
        header.descriptorOffset = try sectors(28) * Vmdk.sectorBytes
        header.descriptorBytes = min(try sectors(36) * Vmdk.sectorBytes, Vmdk.Limit.descriptorBytes)
        header.tableEntries = Int(word(44))
        header.overheadBytes = try sectors(64) * Vmdk.sectorBytes
        let directory: UInt64 = span.littleEndian(at: 56) ?? 0
        header.isAtEnd = directory == Vmdk.directoryAtEnd
        if !header.isAtEnd { header.directoryOffset = try sectors(56) * Vmdk.sectorBytes }
        if header.flags & Vmdk.Flag.redundantTables != 0, !header.isAtEnd {
            let offset = try sectors(48) * Vmdk.sectorBytes
            header.redundantDirectoryOffset = offset > 0 ? offset : nil
        }
        try header.checkCompression()
        return header
    }

    private func checkCompression() throws(BlockError) {
        let span = bytes.span.bytes
        let algorithm: UInt16 = span.littleEndian(at: 77) ?? 0
        guard isCompressed else { return }
        guard algorithm == 1, hasMarkers else {
            throw BlockError(.unsupported, "Unsupported VMDK compression algorithm \(algorithm)")
        }
    }

    private static func parseCow(_ bytes: [UInt8]) throws(BlockError) -> VmdkSparseHeader {
        let span = bytes.span.bytes
        func word(_ offset: Int) -> UInt32 { span.littleEndian(at: offset) ?? 0 }
        var header = VmdkSparseHeader(kind: .cow, capacitySectors: Int(word(12)), bytes: bytes)
        header.version = word(4)
        header.flags = word(8)
        header.grainSectors = Int(word(16))
        header.tableEntries = 4096
        header.directoryOffset = Int(word(20)) * Vmdk.sectorBytes
        header.overheadBytes = header.directoryOffset
        try header.checkSizes()
        guard Int(word(24)) >= header.directoryEntries else {
            throw BlockError(.corrupt, "The grain directory is too small for the disk")
        }
        return header
    }

    private func checkSizes() throws(BlockError) {
        // In QEMU's order and words, as far as QEMU detects the same errors.
        guard tableEntries <= Vmdk.Limit.tableEntries, tableEntries <= 512 || tableEntries.isPowerOfTwo else {
            throw BlockError(.unsupported, "L2 table size too big")
        }
        guard tableEntries > 0, grainSectors > 0 else {
            throw BlockError(.corrupt, "L1 entry size is invalid")
        }
        guard grainSectors.isPowerOfTwo, grainSectors <= Vmdk.Limit.grainSectors else {
            throw BlockError(.unsupported, "Unsupported VMDK grain size of \(grainSectors) sectors")
        }
        guard tableEntries.isPowerOfTwo, (128...Vmdk.Limit.tableEntries).contains(tableEntries) else {
            throw BlockError(.unsupported, "Unsupported VMDK grain tables of \(tableEntries) entries")
        }
        guard directoryEntries <= Vmdk.Limit.directoryEntries else {
            throw BlockError(
                .limit,
                "The grain directory would have more than "
                    + "\(Vmdk.Limit.directoryEntries) entries")
        }
    }

    /// Sets the places of a new extent's tables: behind the descriptor the redundant directory and its
    /// tables, then the primary ones, then grains.
    mutating func placeTables() {
        let start = Vmdk.sectorBytes + descriptorBytes
        let size = directoryBytes + directoryEntries * tableBytes
        redundantDirectoryOffset = start
        directoryOffset = start + size
        overheadBytes = (start + 2 * size).roundedUp(to: grainBytes) ?? start + 2 * size
    }

    /// The header's first sector, with the changed fields.
    func serialised() -> [UInt8] {
        var bytes = bytes
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        func sectors(_ bytes: Int) -> UInt64 { UInt64(bytes / Vmdk.sectorBytes) }
        if kind == .cow {
            span.storeLittleEndian(UInt32(clamping: capacitySectors), at: 12)
            span.storeLittleEndian(UInt32(clamping: directoryOffset / Vmdk.sectorBytes), at: 20)
            span.storeLittleEndian(UInt32(clamping: directoryEntries), at: 24)
            return bytes
        }
        span.storeLittleEndian(Vmdk.sparseMagic, at: 0)
        span.storeLittleEndian(version, at: 4)
        span.storeLittleEndian(flags, at: 8)
        span.storeLittleEndian(UInt64(capacitySectors), at: 12)
        span.storeLittleEndian(UInt64(grainSectors), at: 20)
        span.storeLittleEndian(sectors(descriptorOffset), at: 28)
        span.storeLittleEndian(sectors(descriptorBytes), at: 36)
        span.storeLittleEndian(UInt32(tableEntries), at: 44)
        span.storeLittleEndian(sectors(redundantDirectoryOffset ?? 0), at: 48)
        span.storeLittleEndian(isAtEnd ? Vmdk.directoryAtEnd : sectors(directoryOffset), at: 56)
        span.storeLittleEndian(sectors(overheadBytes), at: 64)
        for (index, byte) in Self.checkBytes.enumerated() { span.storeLittleEndian(byte, at: 73 + index) }
        span.storeLittleEndian(UInt16(isCompressed ? 1 : 0), at: 77)
        return bytes
    }
}
