import BlockCore

/// The fields of a hosted extent's header ("KDMV"), each stated once, in the order in which they are read.
/// Sizes and places are in sectors.
extension VmdkSparseHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let magicField = HeaderField<Self>(
        "magicNumber", at: 0, width: 4, "`KDMV`", value: { _ in UInt64(Vmdk.sparseMagic) })
    private static let lineEnds: [UInt8] = [0x0A, 0x20, 0x0D, 0x0A]

    static let allFields: [HeaderField<Self>] = [
        magicField,
        sectors(
            "capacity", at: 12, "size of the disk", value: { UInt64($0.capacitySectors) },
            take: { $0.capacitySectors = $1 }),
        HeaderField(
            "version", at: 4, width: 4, "1 to 3", value: { UInt64($0.version) },
            take: { (header, version) throws(BlockError) in
                guard (1...3).contains(version) else {
                    throw BlockError(.unsupported, "Unsupported VMDK version \(version)")
                }
                header.version = UInt32(truncatingIfNeeded: version)
            }),
        HeaderField(
            "flags", at: 8, width: 4, \.flags,
            "bit 0 line ends, 1 redundant tables, 2 zero grains, 16 compressed grains, 17 markers"),
        HeaderField(
            "line ends", at: 73, width: 4, "line feed, space, carriage return, line feed",
            bytes: { _ in lineEnds },
            take: { (header, bytes) throws(BlockError) in
                guard header.flags & Vmdk.Flag.newlineTest == 0 || bytes == lineEnds else {
                    throw BlockError(
                        .corrupt, "The line feeds of the file were changed on a transfer as text")
                }
            }),
        sectors(
            "grainSize", at: 20, "size of a grain", value: { UInt64($0.grainSectors) },
            take: { $0.grainSectors = $1 }),
        sectors(
            "descriptorOffset", at: 28, "place of the embedded descriptor; 0 for none",
            value: { inSectors($0.descriptorOffset) }, take: { $0.descriptorOffset = inBytes($1) }),
        sectors(
            "descriptorSize", at: 36, "its size", value: { inSectors($0.descriptorBytes) },
            take: { $0.descriptorBytes = min(inBytes($1), Vmdk.Limit.descriptorBytes) }),
        HeaderField("numGTEsPerGT", at: 44, width: 4, \.tableEntries, "entries of a grain table"),
        sectors(
            "overHead", at: 64, "end of the metadata", value: { inSectors($0.overheadBytes) },
            take: { $0.overheadBytes = inBytes($1) }),
        HeaderField(
            "gdOffset", at: 56, width: 8, "place of the grain directory; all ones where the footer has it",
            value: { $0.isAtEnd ? Vmdk.directoryAtEnd : inSectors($0.directoryOffset) },
            take: { (header, place) throws(BlockError) in
                header.isAtEnd = place == Vmdk.directoryAtEnd
                if !header.isAtEnd { header.directoryOffset = inBytes(try checked(place, at: 56)) }
            }),
        HeaderField(
            "rgdOffset", at: 48, width: 8, "place of the redundant grain directory, if flag 1 is set",
            value: { inSectors($0.redundantDirectoryOffset ?? 0) },
            take: { (header, place) throws(BlockError) in
                guard header.flags & Vmdk.Flag.redundantTables != 0, !header.isAtEnd else { return }
                let offset = inBytes(try checked(place, at: 48))
                header.redundantDirectoryOffset = offset > 0 ? offset : nil
            }),
        HeaderField("uncleanShutdown", at: 72, width: 1, "1 while a program has the file open; kept"),
        HeaderField(
            "compressAlgorithm", at: 77, width: 2, "1 for compressed grains (zlib), otherwise 0",
            value: { $0.isCompressed ? 1 : 0 },
            take: { (header, algorithm) throws(BlockError) in
                guard !header.isCompressed || (algorithm == 1 && header.hasMarkers) else {
                    throw BlockError(.unsupported, "Unsupported VMDK compression algorithm \(algorithm)")
                }
            }),
    ]

    /// A field of 64 bits with a number of sectors.
    private static func sectors(
        _ name: String, at offset: Int, _ meaning: String, value: @escaping @Sendable (Self) -> UInt64,
        take: @escaping @Sendable (inout Self, Int) -> Void
    ) -> HeaderField<Self> {
        HeaderField(
            name, at: offset, width: 8, meaning, value: value,
            take: { (header, number) throws(BlockError) in
                take(&header, try checked(number, at: offset))
            })
    }

    /// A number of sectors from a header, low enough for one of bytes.
    ///
    /// - Throws: `corrupt`.
    static func checked(_ sectors: UInt64, at offset: Int) throws(BlockError) -> Int {
        guard sectors <= UInt64(Int.max >> 10) else {
            throw BlockError(.corrupt, "The header has a number that is too large (at \(offset))")
        }
        return Int(sectors)
    }

    private static func inBytes(_ sectors: Int) -> Int { sectors * Vmdk.sectorBytes }
    private static func inSectors(_ bytes: Int) -> UInt64 { UInt64(bytes / Vmdk.sectorBytes) }
}

/// The fields of a COW disk's header ("COWD"). Those that have no property are not written.
extension VmdkSparseHeader {
    enum CowField {
        static let version = HeaderField<VmdkSparseHeader>("version", at: 4, width: 4, "1")
        static let flags = HeaderField<VmdkSparseHeader>("flags", at: 8, width: 4, "3; ignored")
        static let capacity = HeaderField<VmdkSparseHeader>(
            "capacity", at: 12, width: 4, "size of the disk",
            value: { UInt64(UInt32(clamping: $0.capacitySectors)) })
        static let grain = HeaderField<VmdkSparseHeader>("grainSize", at: 16, width: 4, "size of a grain")
        static let directory = HeaderField<VmdkSparseHeader>(
            "gdOffset", at: 20, width: 4, "place of the grain directory",
            value: { UInt64(UInt32(clamping: $0.directoryOffset / Vmdk.sectorBytes)) })
        static let entries = HeaderField<VmdkSparseHeader>(
            "numGDEntries", at: 24, width: 4, "entries of the grain directory",
            value: { UInt64(UInt32(clamping: $0.directoryEntries)) })
        static let firstFree = HeaderField<VmdkSparseHeader>(
            "freeSector", at: 28, width: 4, "first sector behind everything")
    }

    static let cowFields = [
        HeaderField<VmdkSparseHeader>("magicNumber", at: 0, width: 4, "`COWD`"), CowField.version,
        CowField.flags, CowField.capacity, CowField.grain, CowField.directory, CowField.entries,
        CowField.firstFree,
    ]
}

/// A marker of a streamOptimized extent: before a compressed grain, and, as a sector, before a table.
extension Vmdk.Marker: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let sectorField = HeaderField<Self>(
        "val", at: 0, width: 8, "grain: its first guest sector; table: the sectors that follow")
    static let sizeField = HeaderField<Self>(
        "size", at: 8, width: 4, "grain: compressed bytes, which follow; table: 0")
    static let typeField = HeaderField<Self>(
        "type", at: 12, width: 4, "table: 0 end, 1 grain table, 2 grain directory, 3 footer")

    static let allFields = [sectorField, sizeField, typeField]
}

/// The fields of an SEsparse extent's header, 64 bits each. Sizes and places are in sectors.
enum VmdkSESparseHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let magic = field("magic", at: 0, "0xCAFEBABE")
    static let version = field("version", at: 8, "0x200000001: 2.1")
    static let capacity = field("capacity", at: 16, "size of the disk")
    static let grain = field("grain_size", at: 24, "size of a grain: 8")
    static let table = field("grain_table_size", at: 32, "size of a grain table: 64")
    static let volatileHeader = field("volatile_header_offset", at: 80, "place of the volatile header")
    static let directory = field("grain_dir_offset", at: 128, "place of the grain directory")
    static let directorySize = field("grain_dir_size", at: 136, "its size")
    static let tables = field("grain_tables_offset", at: 144, "place of the grain tables")
    static let tablesSize = field("grain_tables_size", at: 152, "their size")
    static let grains = field("grains_offset", at: 192, "place of the grains")

    static let allFields = [
        magic, version, capacity, grain, table, field("flags", at: 40, "ignored"),
        HeaderField("reserved", at: 48, width: 32, "ignored"), volatileHeader,
        field("volatile_header_size", at: 88, "ignored"),
        HeaderField("journal", at: 96, width: 32, "header and journal: place and size of each; ignored"),
        directory, directorySize, tables, tablesSize,
        HeaderField("free_bitmap, backmap", at: 160, width: 32, "place and size of each; ignored"),
        grains, field("grains_size", at: 200, "ignored"),
    ]

    /// The fields of the volatile header.
    enum Volatile {
        static let magic = field("magic", at: 0, "0xCAFECAFE")
        static let replay = field("replay_journal", at: 24, "not 0 when the journal must be replayed")
    }

    private static func field(_ name: String, at offset: Int, _ meaning: String) -> HeaderField<Self> {
        HeaderField(name, at: offset, width: 8, meaning)
    }
}
