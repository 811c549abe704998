/// The fields of the header, each stated once.
extension AsifHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    enum Field {
        static let magic = HeaderField<AsifHeader>("magic", at: 0x00, width: 4, "`shdw`")
        static let version = HeaderField<AsifHeader>("version", at: 0x04, width: 4, "1")
        static let directory = HeaderField<AsifHeader>(
            "directory offset", at: 0x10, width: 8, "offset of one directory, in bytes")
        static let otherDirectory = HeaderField<AsifHeader>(
            "other directory offset", at: 0x18, width: 8,
            "offset of the other; the one with the higher sequence number is valid")
        static let sectors = HeaderField<AsifHeader>("sectors", at: 0x30, width: 8, "sectors of the disk")
        static let mostSectors = HeaderField<AsifHeader>(
            "sectors at most", at: 0x38, width: 8, "sectors to which the disk can grow")
        static let chunkBytes = HeaderField<AsifHeader>("chunk size", at: 0x40, width: 4, "bytes of a chunk")
        static let sectorBytes = HeaderField<AsifHeader>(
            "sector size", at: 0x44, width: 2, "bytes of a sector")
    }

    static let allFields = [
        Field.magic, Field.version, HeaderField("header size", at: 0x08, width: 4, "ignored"),
        HeaderField("flags", at: 0x0C, width: 4, "ignored"), Field.directory, Field.otherDirectory,
        HeaderField("UUID", at: 0x20, width: 16, "ignored"), Field.sectors, Field.mostSectors,
        Field.chunkBytes, Field.sectorBytes, HeaderField("segments", at: 0x46, width: 2, "ignored"),
        HeaderField("metadata chunk", at: 0x48, width: 8, "ignored"),
    ]
}
