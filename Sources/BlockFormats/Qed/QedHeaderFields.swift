import BlockCore

/// The fields of the header (section "Header"), each stated once, in the order in which they are read.
extension QedHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let magicField = HeaderField<QedHeader>(
        "magic", at: 0, width: 4, "`QED` and a zero", value: { _ in UInt64(Qed.magic) })

    static let allFields: [HeaderField<QedHeader>] = [
        magicField,
        HeaderField("cluster_size", at: 4, width: 4, \.clusterBytes, "bytes of a cluster"),
        HeaderField("table_size", at: 8, width: 4, \.tableClusters, "clusters of an L1 or L2 table"),
        HeaderField("header_size", at: 12, width: 4, \.headerClusters, "clusters of the header"),
        HeaderField(
            "features", at: 16, width: 8,
            "bit 0 has a backing file, 1 needs a check, 2 the backing file is raw; others are refused",
            value: { $0.features },
            take: { (header, bits) throws(BlockError) in
                guard bits & ~Qed.Feature.known == 0 else {
                    let unknown = String(bits & ~Qed.Feature.known, radix: 16)
                    throw BlockError(.unsupported, "Unsupported QED features: \(unknown)")
                }
                header.features = bits
            }),
        HeaderField("compat_features", at: 24, width: 8, \.compatible, "none is known; kept"),
        HeaderField("autoclear_features", at: 32, width: 8, \.autoclear, "none is known; cleared by writers"),
        HeaderField(
            "l1_table_offset", at: 40, width: 8, \.l1Offset, "offset of the L1 table, in bytes",
            tooLarge: tooLarge),
        HeaderField(
            "image_size", at: 48, width: 8, \.virtualSize, "size of the disk, in bytes", tooLarge: tooLarge),
        HeaderField(
            "backing_filename_offset", at: 56, width: 4, \.backingOffset,
            "offset of the backing file's name, in bytes"),
        HeaderField(
            "backing_filename_size", at: 60, width: 4, \.backingBytes, "bytes of that name: at most 1023"),
    ]

    private static let tooLarge: @Sendable (UInt64) -> String = {
        "A number in the QED header is too large (\($0))"
    }
}
