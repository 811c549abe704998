import BlockCore

/// The fields of the header (section "Header"), each stated once.
///
/// They are read in the order of these lists: a field that limits others comes before them.
extension Qcow2Header: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    /// The fields at the start of the file, which identify the format.
    static let identity: [HeaderField<Qcow2Header>] = [
        HeaderField("magic", at: 0, width: 4, #""QFI\xfb""#, value: { _ in UInt64(Qcow2.magic) }),
        HeaderField("version", at: 4, width: 4, \.version, "2 or 3"),
    ]

    /// The fields of both versions.
    static let commonFields: [HeaderField<Qcow2Header>] = [
        HeaderField(
            "cluster_bits", at: 20, width: 4, "a cluster has 2 to the power of this bytes: 9 to 21",
            value: { UInt64($0.clusterBits) },
            take: { (header, bits) throws(BlockError) in
                guard let bits = Int(exactly: bits), Qcow2.clusterBitsRange.contains(bits) else {
                    throw BlockError(.unsupported, "Unsupported cluster size: 2^\(bits)")
                }
                header.clusterBits = bits
            }),
        HeaderField("size", at: 24, width: 8, \.virtualSize, "of the disk, in bytes", label: "image size"),
        HeaderField("crypt_method", at: 32, width: 4, \.cryptMethod, "0 none, 1 AES, 2 LUKS"),
        HeaderField("l1_size", at: 36, width: 4, \.l1Entries, "entries of the active L1 table"),
        HeaderField(
            "l1_table_offset", at: 40, width: 8, \.l1Offset, "where it lies", label: "L1 table offset"),
        HeaderField(
            "refcount_table_offset", at: 48, width: 8, \.refcountTableOffset, "where that table lies",
            label: "Reference count table offset"),
        HeaderField(
            "refcount_table_clusters", at: 56, width: 4, \.refcountTableClusters, "how many clusters it takes"
        ),
        HeaderField("nb_snapshots", at: 60, width: 4, \.snapshotCount, "entries of the snapshot table"),
        HeaderField(
            "snapshots_offset", at: 64, width: 8, \.snapshotsOffset, "where it lies",
            label: "Snapshot table offset"),
        HeaderField(
            "backing_file_offset", at: 8, width: 8, \.backingOffset,
            "where the backing name lies, in the first cluster; 0 for none", label: "Backing file offset"),
        backingNameField,
    ]

    /// Read together with the name.
    static let backingNameField = HeaderField<Qcow2Header>(
        "backing_file_size", at: 16, width: 4, "of the name, in bytes: at most 1023",
        value: { $0.backing == nil ? 0 : UInt64($0.backingNameBytes) })

    /// The fields that version 3 adds.
    static let version3Fields: [HeaderField<Qcow2Header>] = [
        lengthField,
        HeaderField(
            "incompatible_features", at: 72, width: 8,
            "bit 0 dirty, 1 corrupt, 2 external data file, 3 compression type, 4 extended L2 entries",
            value: { $0.incompatible.rawValue },
            take: { (header, bits) throws(BlockError) in
                header.incompatible = Qcow2.Incompatible(rawValue: bits)
            }),
        HeaderField("compatible_features", at: 80, width: 8, \.compatible, "bit 0 lazy refcounts"),
        HeaderField(
            "autoclear_features", at: 88, width: 8, \.autoclear, "bit 0 bitmaps, 1 raw external data"),
        // ``validate(fileLength:)`` refuses wrong values, after unknown features.
        HeaderField(
            "refcount_order", at: 96, width: 4, \.refcountOrder,
            "a refcount has 2 to the power of this bits: 0 to 6"),
    ]

    /// The offset of the first extension.
    static let lengthField = HeaderField<Qcow2Header>(
        "header_length", at: 100, width: 4, \.headerLength, "of this header, in bytes: at least 104")

    /// The field of version 3 headers that are longer than the minimum.
    static let compressionField = HeaderField<Qcow2Header>(
        "compression_type", at: version3MinimumLength, width: 1,
        "0 zlib, 1 zstd; where the header is longer than 104 bytes",
        value: { UInt64($0.compressionType.rawValue) },
        take: { (header, type) throws(BlockError) in
            guard let known = UInt8(exactly: type).flatMap({ Qcow2.CompressionType(rawValue: $0) }) else {
                throw BlockError(.unsupported, "qcow2: unknown compression type: \(type)")
            }
            header.compressionType = known
        })

    /// All fields, for the format's page.
    static let allFields = identity + commonFields + version3Fields + [compressionField]
}
