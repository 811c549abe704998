import BlockCore

/// The header of a sparse extent: one sector of a hosted one, four of a COW disk. Its fields are in
/// VmdkHeaderFields.swift.
///
/// The properties are in bytes unless their name has another unit.
struct VmdkSparseHeader: Sendable, Equatable {
    enum Kind: Sendable { case hosted, cow }

    static let hostedBytes = 512

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
        let magic = magicField.number(in: bytes)
        guard bytes.count >= hostedBytes, [Vmdk.sparseMagic, Vmdk.cowMagic].map(UInt64.init).contains(magic)
        else { throw BlockError(.wrongFormat, "The file is no sparse extent of a VMDK image") }
        if magic == UInt64(Vmdk.cowMagic) { return try parseCow(bytes) }
        var header = VmdkSparseHeader(capacitySectors: 0, bytes: bytes)
        try header.readFields(bytes.span.bytes)
        try header.checkSizes()
        return header
    }

    private static func parseCow(_ bytes: [UInt8]) throws(BlockError) -> VmdkSparseHeader {
        func word(_ field: HeaderField<Self>) -> Int { Int(truncatingIfNeeded: field.number(in: bytes)) }
        var header = VmdkSparseHeader(kind: .cow, capacitySectors: word(CowField.capacity), bytes: bytes)
        header.version = UInt32(truncatingIfNeeded: word(CowField.version))
        header.flags = UInt32(truncatingIfNeeded: word(CowField.flags))
        header.grainSectors = word(CowField.grain)
        header.tableEntries = 4096
        header.directoryOffset = word(CowField.directory) * Vmdk.sectorBytes
        header.overheadBytes = header.directoryOffset
        try header.checkSizes()
        guard word(CowField.entries) >= header.directoryEntries else {
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
        guard kind == .cow else { return fieldBytes(over: bytes) }
        var result = bytes
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        for field in Self.cowFields { field.write(self, to: &span) }
        return result
    }
}
