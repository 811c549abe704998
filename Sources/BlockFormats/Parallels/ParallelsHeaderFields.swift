import BlockCore

/// The fields of the header (section "Header"), each stated once, in the order in which they are
/// read. Those without a property keep their bytes.
extension ParallelsHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let magicField = HeaderField<ParallelsHeader>(
        "magic", at: 0, width: 16, "`WithoutFreeSpace` or `WithouFreSpacExt`")
    static let versionField = HeaderField<ParallelsHeader>("version", at: 16, width: 4, "2")
    static let headsField = HeaderField<ParallelsHeader>("heads", at: 20, width: 4, "geometry; ignored")
    static let cylindersField = HeaderField<ParallelsHeader>(
        "cylinders", at: 24, width: 4, "geometry; ignored")
    static let flagsField = HeaderField<ParallelsHeader>("flags", at: 52, width: 4, "bit 0 empty image; kept")

    static let allFields: [HeaderField<ParallelsHeader>] = [
        magicField, versionField, headsField, cylindersField,
        HeaderField(
            "tracks", at: 28, width: 4, "sectors of a cluster",
            value: { UInt64($0.clusterBytes / Parallels.sectorBytes) },
            take: { (header, sectors) throws(BlockError) in
                guard sectors > 0 else {
                    throw BlockError(.corrupt, "Invalid image: Zero sectors per track")
                }
                guard sectors <= UInt64(Parallels.Limit.clusterSectors) else {
                    throw BlockError(.limit, "Invalid image: Too big cluster")
                }
                header.clusterBytes = Int(sectors) * Parallels.sectorBytes
            }),
        HeaderField(
            "nb_bat_entries", at: 32, width: 4, "entries of the table",
            value: { UInt64($0.entryCount) },
            take: { (header, entries) throws(BlockError) in
                guard entries <= UInt64(Parallels.Limit.entries) else {
                    throw BlockError(.limit, "Catalog too large")
                }
                header.entryCount = Int(entries)
            }),
        HeaderField(
            "nb_sectors", at: 36, width: 8,
            "sectors of the disk; `WithoutFreeSpace` has only the lower 32 bits",
            value: { UInt64($0.virtualSize / Parallels.sectorBytes) },
            take: { (header, sectors) throws(BlockError) in
                let stated = header.kind == .clusters ? sectors : UInt64(UInt32(truncatingIfNeeded: sectors))
                header.virtualSize = try checked(stated) * Parallels.sectorBytes
            }),
        HeaderField(
            "in_use", at: 44, width: 4, \.inUse,
            "0x746F6E59 open, 0x312E3276 closed, 0 closed by a program that knows no extension"),
        HeaderField(
            "data_off", at: 48, width: 4, \.dataSector,
            "offset of the data area, in sectors; 0 for directly behind the table"),
        flagsField,
        HeaderField(
            "ext_off", at: 56, width: 8, "offset of the format extension, in sectors; 0 for none",
            value: { UInt64($0.extensionSector) },
            take: { (header, sector) throws(BlockError) in header.extensionSector = try checked(sector) }),
    ]

    private static func checked(_ sectors: UInt64) throws(BlockError) -> Int {
        guard sectors <= UInt64(Parallels.Limit.virtualSize / Parallels.sectorBytes) else {
            throw BlockError(.limit, "Invalid image: The disk is too large")
        }
        return Int(sectors)
    }
}
