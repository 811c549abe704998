import BlockCore

/// The fields of the header (section "PHDR"), each stated once. Those that need each other are read by
/// ``parse(_:)``.
extension LuksHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    static let magicField = HeaderField<LuksHeader>(
        "magic", at: 0, width: 6, "`LUKS`, 0xba, 0xbe", bytes: { _ in Luks.magic })
    static let versionField = HeaderField<LuksHeader>(
        "version", at: 6, width: 2, "1", value: { _ in UInt64(Luks.version) })
    static let cipherField = HeaderField<LuksHeader>(
        "cipher-name", at: 8, width: 32, "`aes`", bytes: { _ in Array("aes".utf8) })
    static let modeField = HeaderField<LuksHeader>(
        "cipher-mode", at: 40, width: 32, "mode and vectors, such as `xts-plain64`",
        bytes: { Array($0.modeText.utf8.prefix(31)) })
    static let hashField = HeaderField<LuksHeader>(
        "hash-spec", at: 72, width: 32, "hash for deriving and splitting keys",
        bytes: { Array($0.hash.rawValue.utf8) })
    static let keyBytesField = HeaderField<LuksHeader>(
        "key-bytes", at: 108, width: 4, "bytes of the master key",
        value: { UInt64(truncatingIfNeeded: $0.keyBytes) })
    static let uuidField = HeaderField<LuksHeader>(
        "uuid", at: 168, width: 40, "UUID of the volume, as text",
        bytes: { Array($0.uuid.utf8.prefix(39)) })
    static let slotsField = HeaderField<LuksHeader>(
        "key-slots", at: 208, width: Luks.slotCount * Luks.slotEntryBytes, "eight, of 48 bytes each")

    static let allFields = [
        magicField, versionField, cipherField, modeField, hashField,
        HeaderField(
            "payload-offset", at: 104, width: 4, "offset of the data, in sectors; 0 with a detached header",
            value: { UInt64(truncatingIfNeeded: $0.payloadOffset / Luks.sectorBytes) },
            take: { $0.payloadOffset = Int(truncatingIfNeeded: $1) * Luks.sectorBytes }),
        keyBytesField,
        HeaderField(
            "mk-digest", at: 112, width: Luks.digestBytes, "digest of the master key",
            bytes: { $0.digest }, take: { $0.digest = $1 }),
        HeaderField(
            "mk-digest-salt", at: 132, width: Luks.saltBytes, "its salt",
            bytes: { $0.digestSalt }, take: { $0.digestSalt = $1 }),
        HeaderField("mk-digest-iter", at: 164, width: 4, \.digestIterations, "its iterations"),
        uuidField, slotsField,
    ]
}

/// The fields of a key slot.
extension LuksSlot: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    static let flagField = HeaderField<LuksSlot>(
        "active", at: 0, width: 4, "0x00AC71F3 active, 0x0000DEAD not",
        value: { UInt64($0.isActive ? Luks.activeFlag : Luks.inactiveFlag) },
        take: { $0.isActive = $1 == UInt64(Luks.activeFlag) })
    static let stripesField = HeaderField<LuksSlot>(
        "stripes", at: 44, width: 4, "stripes of the key material: 4000",
        value: { _ in UInt64(Luks.stripes) })

    static let allFields = [
        flagField,
        HeaderField("iterations", at: 4, width: 4, \.iterations, "iterations of the key derivation"),
        HeaderField(
            "salt", at: 8, width: Luks.saltBytes, "its salt", bytes: { $0.salt }, take: { $0.salt = $1 }),
        HeaderField(
            "key-material-offset", at: 40, width: 4, "offset of the key material, in sectors",
            value: { UInt64(truncatingIfNeeded: $0.materialOffset / Luks.sectorBytes) },
            take: { $0.materialOffset = Int(truncatingIfNeeded: $1) * Luks.sectorBytes }),
        stripesField,
    ]
}
