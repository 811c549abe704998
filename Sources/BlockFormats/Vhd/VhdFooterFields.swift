/// The fields of the footer (section "Hard Disk Footer Format"), each stated once. The footer keeps them as
/// bytes.
extension VhdFooter: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    enum Field {
        static let cookie = HeaderField<VhdFooter>("Cookie", at: 0x00, width: 8, "`conectix`")
        static let features = HeaderField<VhdFooter>("Features", at: 0x08, width: 4, "2; ignored")
        static let version = HeaderField<VhdFooter>("File Format Version", at: 0x0C, width: 4, "0x00010000")
        static let dataOffset = HeaderField<VhdFooter>(
            "Data Offset", at: 0x10, width: 8, "offset of the header, in bytes; all ones for a fixed disk")
        static let time = HeaderField<VhdFooter>("Time Stamp", at: 0x18, width: 4, "seconds since 2000-01-01")
        static let creator = HeaderField<VhdFooter>(
            "Creator Application", at: 0x1C, width: 4, "decides between the [two sizes](#two-sizes)")
        static let creatorVersion = HeaderField<VhdFooter>(
            "Creator Version", at: 0x20, width: 4, "ignored")
        static let creatorSystem = HeaderField<VhdFooter>(
            "Creator Host OS", at: 0x24, width: 4, "`Wi2k` or `Mac `; ignored")
        static let originalSize = HeaderField<VhdFooter>(
            "Original Size", at: 0x28, width: 8, "size of the new disk, in bytes; ignored")
        static let currentSize = HeaderField<VhdFooter>(
            "Current Size", at: 0x30, width: 8, "size of the disk, in bytes")
        static let geometry = HeaderField<VhdFooter>(
            "Disk Geometry", at: 0x38, width: 4, "cylinders (2 bytes), heads (1), sectors of a track (1)")
        static let type = HeaderField<VhdFooter>(
            "Disk Type", at: 0x3C, width: 4, "2 fixed, 3 dynamic, 4 differencing")
        static let checksum = HeaderField<VhdFooter>(
            "Checksum", at: 0x40, width: 4, "complement of the sum of all other bytes")
        static let uuid = HeaderField<VhdFooter>("Unique Id", at: 0x44, width: 16, "UUID of the image")
        static let savedState = HeaderField<VhdFooter>(
            "Saved State", at: 0x54, width: 1, "not 0 where the machine's state is saved elsewhere")
    }

    static let allFields = [
        Field.cookie, Field.features, Field.version, Field.dataOffset, Field.time, Field.creator,
        Field.creatorVersion, Field.creatorSystem, Field.originalSize, Field.currentSize, Field.geometry,
        Field.type, Field.checksum, Field.uuid, Field.savedState,
    ]
}
