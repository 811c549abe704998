import BlockCore

/// The fields of the header, each stated once. Those without a property keep their bytes.
extension VdiHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let creatorField = HeaderField<VdiHeader>("text", at: 0, width: 64, "text about the creator")
    static let signatureField = HeaderField<VdiHeader>(
        "signature", at: Vdi.signatureOffset, width: 4, "0xBEDA107F")
    static let versionField = HeaderField<VdiHeader>("version", at: 0x44, width: 4, "0x00010001 for 1.1")
    static let headerBytesField = HeaderField<VdiHeader>(
        "header_size", at: 0x48, width: 4, "bytes of the header, from this field on")
    static let typeField = HeaderField<VdiHeader>(
        "image_type", at: 0x4C, width: 4, "1 dynamic, 2 static, 3 undo, 4 differencing",
        value: { UInt64($0.type.rawValue) },
        take: { (header, type) throws(BlockError) in
            header.type = UInt32(exactly: type).flatMap { Vdi.ImageType(rawValue: $0) } ?? .dynamic
        })
    static let sectorBytesField = HeaderField<VdiHeader>(
        "sector_size", at: 0x168, width: 4, "bytes of a sector: 512; ignored")
    static let sizeField = HeaderField<VdiHeader>(
        "disk_size", at: 0x170, width: 8, \.virtualSize, "size of the disk, in bytes")
    static let uuidField = HeaderField<VdiHeader>("uuid_image", at: 0x188, width: 16, "UUID of the image")
    static let changeUUIDField = HeaderField<VdiHeader>(
        "uuid_last_snap", at: 0x198, width: 16, "UUID of its last change")
    static let parentUUIDField = HeaderField<VdiHeader>(
        "uuid_link", at: 0x1A8, width: 16, "UUID of the parent; zeroes for none")

    static let allFields: [HeaderField<VdiHeader>] = [
        creatorField, signatureField, versionField, headerBytesField, typeField,
        HeaderField("image_flags", at: 0x50, width: 4, "flags; ignored"),
        HeaderField("description", at: 0x54, width: 256, "comment"),
        HeaderField(
            "blocks_map_offset", at: 0x154, width: 4, \.mapOffset, "offset of the block map, in bytes"),
        HeaderField("offset_data", at: 0x158, width: 4, \.dataOffset, "offset of the blocks, in bytes"),
        HeaderField("cylinders", at: 0x15C, width: 4, "geometry; ignored"),
        HeaderField("heads", at: 0x160, width: 4, "geometry; ignored"),
        HeaderField("sectors", at: 0x164, width: 4, "geometry; ignored"),
        sectorBytesField,
        HeaderField("reserved1", at: 0x16C, width: 4, "ignored"),
        sizeField,
        HeaderField("block_data_size", at: 0x178, width: 4, \.blockBytes, "bytes of a block"),
        HeaderField(
            "block_metadata_size", at: 0x17C, width: 4, \.blockExtraBytes, "extra bytes before each block"),
        HeaderField("blocks_in_image", at: 0x180, width: 4, \.blockCount, "entries of the block map"),
        HeaderField(
            "blocks_allocated", at: 0x184, width: 4, \.allocatedCount, "taken blocks of the data area"),
        uuidField, changeUUIDField, parentUUIDField,
        HeaderField("uuid_parent", at: 0x1B8, width: 16, "UUID of the parent's last change"),
    ]
}
