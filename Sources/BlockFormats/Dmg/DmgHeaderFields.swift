/// The fields of the trailer, each stated once.
extension DmgTrailer: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    enum Field {
        static let signature = HeaderField<DmgTrailer>("Signature", at: 0x00, width: 4, "`koly`")
        static let size = HeaderField<DmgTrailer>("HeaderSize", at: 0x08, width: 4, "512")
        static let dataOffset = HeaderField<DmgTrailer>(
            "DataForkOffset", at: 0x18, width: 8, "offset of the chunks, in bytes")
        static let dataLength = HeaderField<DmgTrailer>("DataForkLength", at: 0x20, width: 8, "their bytes")
        static let resourceOffset = HeaderField<DmgTrailer>(
            "RsrcForkOffset", at: 0x28, width: 8, "offset of the resource fork, in bytes")
        static let resourceLength = HeaderField<DmgTrailer>(
            "RsrcForkLength", at: 0x30, width: 8, "its bytes; 0 for none")
        static let segment = HeaderField<DmgTrailer>(
            "SegmentNumber", at: 0x38, width: 4, "number of this file")
        static let segmentCount = HeaderField<DmgTrailer>(
            "SegmentCount", at: 0x3C, width: 4, "files of the image; more than 1 are refused")
        static let dataChecksum = HeaderField<DmgTrailer>(
            "DataChecksum", at: 0x50, width: 136, "checksum of the data fork")
        static let listOffset = HeaderField<DmgTrailer>(
            "XMLOffset", at: 0xD8, width: 8, "offset of the property list, in bytes")
        static let listLength = HeaderField<DmgTrailer>(
            "XMLLength", at: 0xE0, width: 8, "its bytes; 0 for none")
        static let masterChecksum = HeaderField<DmgTrailer>(
            "MasterChecksum", at: 0x160, width: 136, "checksum of the checksums of the block tables")
        static let sectors = HeaderField<DmgTrailer>(
            "SectorCount", at: 0x1EC, width: 8, "sectors of the disk")
    }

    static let allFields = [
        Field.signature, HeaderField("Version", at: 0x04, width: 4, "4; ignored"), Field.size,
        HeaderField("Flags", at: 0x0C, width: 4, "ignored"),
        HeaderField("RunningDataForkOffset", at: 0x10, width: 8, "ignored"),
        Field.dataOffset, Field.dataLength, Field.resourceOffset, Field.resourceLength, Field.segment,
        Field.segmentCount, HeaderField("SegmentID", at: 0x40, width: 16, "ignored"), Field.dataChecksum,
        Field.listOffset, Field.listLength, HeaderField("Reserved", at: 0xE8, width: 120, "ignored"),
        Field.masterChecksum, HeaderField("ImageVariant", at: 0x1E8, width: 4, "ignored"), Field.sectors,
    ]
}

/// The fields of a block table's header.
extension DmgTable: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    enum Field {
        static let signature = HeaderField<DmgTable>("Signature", at: 0x00, width: 4, "`mish`")
        static let sector = HeaderField<DmgTable>(
            "SectorNumber", at: 0x08, width: 8, "first sector on the disk")
        static let sectors = HeaderField<DmgTable>("SectorCount", at: 0x10, width: 8, "sectors")
        static let dataOffset = HeaderField<DmgTable>(
            "DataOffset", at: 0x18, width: 8, "base of the chunks' offsets, in bytes of the data fork")
        static let checksum = HeaderField<DmgTable>(
            "Checksum", at: 0x40, width: 136, "checksum of the sectors")
        static let entries = HeaderField<DmgTable>(
            "NumberOfBlockChunks", at: 0xC8, width: 4, "entries, of 40 bytes each")
    }

    static let allFields = [
        Field.signature, HeaderField("Version", at: 0x04, width: 4, "1; ignored"), Field.sector,
        Field.sectors, Field.dataOffset, HeaderField("BuffersNeeded", at: 0x20, width: 4, "ignored"),
        HeaderField("BlockDescriptors", at: 0x24, width: 4, "ignored"),
        HeaderField("Reserved", at: 0x28, width: 24, "ignored"), Field.checksum, Field.entries,
    ]
}

/// The fields of an entry of a block table.
extension DmgChunk: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    enum Field {
        static let type = HeaderField<DmgChunk>("EntryType", at: 0x00, width: 4, "encoding of the chunk")
        static let sector = HeaderField<DmgChunk>(
            "SectorNumber", at: 0x08, width: 8, "first sector, from the table's")
        static let sectors = HeaderField<DmgChunk>("SectorCount", at: 0x10, width: 8, "sectors")
        static let offset = HeaderField<DmgChunk>(
            "CompressedOffset", at: 0x18, width: 8, "offset of the stored bytes, from the table's base")
        static let length = HeaderField<DmgChunk>("CompressedLength", at: 0x20, width: 8, "stored bytes")
    }

    static let allFields = [
        Field.type, HeaderField("Comment", at: 0x04, width: 4, "ignored"), Field.sector, Field.sectors,
        Field.offset, Field.length,
    ]
}

/// The fields of a checksum.
extension DmgChecksum: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    enum Field {
        static let type = HeaderField<DmgChecksum>("Type", at: 0, width: 4, "2 for CRC-32; 0 for none")
        static let value = HeaderField<DmgChecksum>("Data", at: 8, width: 4, "CRC-32")
    }

    static let allFields = [
        Field.type, HeaderField("Size", at: 4, width: 4, "bits of the checksum; ignored"), Field.value,
        HeaderField("rest of Data", at: 12, width: 124, "ignored"),
    ]
}
