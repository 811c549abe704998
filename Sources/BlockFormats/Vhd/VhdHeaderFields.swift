/// The fields of the header (section "Dynamic Disk Header Format"), each stated once. The header keeps them
/// as bytes.
extension VhdHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    enum Field {
        static let cookie = HeaderField<VhdHeader>("Cookie", at: 0x00, width: 8, "`cxsparse`")
        static let dataOffset = HeaderField<VhdHeader>("Data Offset", at: 0x08, width: 8, "all ones; ignored")
        static let tableOffset = HeaderField<VhdHeader>(
            "Table Offset", at: 0x10, width: 8, "offset of the block table, in bytes")
        static let version = HeaderField<VhdHeader>("Header Version", at: 0x18, width: 4, "0x00010000")
        static let blocks = HeaderField<VhdHeader>(
            "Max Table Entries", at: 0x1C, width: 4, "entries of the block table")
        static let blockBytes = HeaderField<VhdHeader>(
            "Block Size", at: 0x20, width: 4, "bytes of a block, without its bitmap")
        static let checksum = HeaderField<VhdHeader>(
            "Checksum", at: 0x24, width: 4, "complement of the sum of all other bytes")
        static let parentUUID = HeaderField<VhdHeader>(
            "Parent Unique ID", at: 0x28, width: 16, "UUID of the parent")
        static let parentTime = HeaderField<VhdHeader>(
            "Parent Time Stamp", at: 0x38, width: 4, "time in the parent's footer")
        static let reserved = HeaderField<VhdHeader>("Reserved", at: 0x3C, width: 4, "0")
        static let parentName = HeaderField<VhdHeader>(
            "Parent Unicode Name", at: 0x40, width: 512, "file name of the parent, UTF-16")
        static let locators = HeaderField<VhdHeader>(
            "Parent Locator Entries", at: 0x240, width: 192,
            "eight, of 24 bytes each")
    }

    static let allFields = [
        Field.cookie, Field.dataOffset, Field.tableOffset, Field.version, Field.blocks, Field.blockBytes,
        Field.checksum, Field.parentUUID, Field.parentTime, Field.reserved, Field.parentName, Field.locators,
    ]
}

/// The fields of a parent locator entry.
extension VhdHeader.Locator: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big
    static let byteCount = 24

    static let platformField = HeaderField<Self>(
        "Platform Code", at: 0, width: 4, "`W2ru`, `W2ku` or `MacX`; zeroes for an unused entry",
        bytes: { Array($0.platform.utf8) })
    static let lengthField = HeaderField<Self>(
        "Platform Data Length", at: 8, width: 4, "bytes of the name", value: { UInt64($0.length) })
    static let offsetField = HeaderField<Self>(
        "Platform Data Offset", at: 16, width: 8, "offset of the name, in bytes",
        value: { UInt64($0.offset) })

    static let allFields = [
        platformField,
        // The specification has sectors here; Windows writes bytes.
        HeaderField(
            "Platform Data Space", at: 4, width: 4, "bytes of its space in the file",
            value: { UInt64($0.range.count) }),
        lengthField, HeaderField("Reserved", at: 12, width: 4, "0"), offsetField,
    ]
}
