import BlockCore

/// The header of the metadata table ([MS-VHDX] 2.6.1.1).
struct VhdxMetadataTable: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    private static let signature: UInt64 = 0x6174_6164_6174_656D
    private static let headerBytes = 32
    private static let signatureField = HeaderField<Self>(
        "Signature", at: 0, width: 8, "`metadata`", value: { _ in signature })
    static let countField = HeaderField<Self>(
        "EntryCount", at: 10, width: 2, \.entryCount, "entries, of 32 bytes each: at most 2047")

    static let allFields = [
        signatureField, HeaderField("Reserved", at: 8, width: 2, "0"), countField,
        HeaderField("Reserved2", at: 12, width: 20, "0"),
    ]

    var entryCount: Int

    static func isTable(_ bytes: RawSpan) -> Bool { signatureField.number(in: bytes) == signature }

    /// The offset of an entry in the table, in bytes.
    static func entryOffset(_ index: Int) -> Int { headerBytes + index * VhdxMetadataEntry.byteCount }
}

/// An entry of the metadata table ([MS-VHDX] 2.6.1.2).
struct VhdxMetadataEntry: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let allFields: [HeaderField<Self>] = [
        HeaderField("ItemId", at: 0, \.guid, "which item it is"),
        HeaderField("Offset", at: 16, width: 4, \.offset, "offset in the region, in bytes"),
        HeaderField("Length", at: 20, width: 4, \.length, "its bytes"),
        HeaderField(
            "Flags", at: 24, width: 4, \.flags,
            "bit 0 an item of the user, 1 of the disk, 2 required: unknown ones are refused"),
        HeaderField("Reserved2", at: 28, width: 4, "0"),
    ]
    static let byteCount = 32
    static let diskFlag = 2
    static let requiredFlag = 4

    var guid = Vhdx.noGUID
    var offset = 0
    var length = 0
    var flags = 0

    func serialised() -> [UInt8] { fieldBytes(count: Self.byteCount) }
}

/// The item "file parameters" ([MS-VHDX] 2.6.2.1).
struct VhdxFileParameters: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let flagsField = HeaderField<Self>(
        "Flags", at: 4, width: 4, "bit 0 blocks keep their places (a fixed image), 1 has a parent",
        value: { ($0.leavesBlocksAllocated ? 1 : 0) | ($0.hasParent ? 2 : 0) },
        take: { ($0.leavesBlocksAllocated, $0.hasParent) = ($1 & 1 != 0, $1 & 2 != 0) })
    static let allFields: [HeaderField<Self>] = [
        HeaderField("BlockSize", at: 0, width: 4, \.blockBytes, "bytes of a block"), flagsField,
    ]
    static let byteCount = 8

    var blockBytes = 0
    var leavesBlocksAllocated = false
    var hasParent = false

    func serialised() -> [UInt8] { fieldBytes(count: Self.byteCount) }
}
