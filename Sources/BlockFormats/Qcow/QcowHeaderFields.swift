import BlockCore

/// The fields of the header (section "File header – version 1"; names as in qcow2), in the order in which
/// they are read: errors are reported in that order.
extension QcowHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.big

    static let magicField = HeaderField<QcowHeader>(
        "magic", at: 0, width: 4, "`QFI` and 0xfb", value: { _ in UInt64(Qcow.magic) })
    static let versionField = HeaderField<QcowHeader>(
        "version", at: 4, width: 4, "1", value: { _ in UInt64(Qcow.version) })

    static let allFields: [HeaderField<QcowHeader>] = [
        magicField,
        versionField,
        HeaderField(
            "crypt_method", at: 36, width: 4, "0 none, 1 AES",
            value: { $0.isEncrypted ? 1 : 0 },
            take: { (header, method) throws(BlockError) in
                guard method <= 1 else {
                    throw BlockError(
                        .unsupported, "invalid encryption method in qcow header (\(method))")
                }
                header.isEncrypted = method == 1
            }),
        large("size", at: 24, \.storedSize, "size of the disk, in bytes"),
        large("l1_table_offset", at: 40, \.l1Offset, "offset of the L1 table, in bytes"),
        large(
            "backing_file_offset", at: 8, \.backingOffset,
            "offset of the backing file's name, in bytes; 0 for none"),
        HeaderField(
            "backing_file_size", at: 16, width: 4, "bytes of that name: at most 1023",
            value: { UInt64($0.backingBytes) },
            take: { (header, bytes) throws(BlockError) in
                header.backingBytes = header.backingOffset == 0 ? 0 : Int(truncatingIfNeeded: bytes)
            }),
        HeaderField("mtime", at: 20, width: 4, \.modificationTime, "time of the backing file; kept"),
        HeaderField(
            "cluster_bits", at: 32, width: 1, \.clusterBits, "a cluster has 2 to the power of this bytes"),
        HeaderField(
            "l2_bits", at: 33, width: 1, \.tableBits, "an L2 table has 2 to the power of this entries"),
        HeaderField("padding", at: 34, width: 2, "0"),
    ]

    private static func large(
        _ name: String, at offset: Int, _ path: any WritableKeyPath<QcowHeader, Int> & Sendable,
        _ meaning: String
    ) -> HeaderField<QcowHeader> {
        HeaderField(name, at: offset, width: 8, path, meaning, atMost: 1 << 62 - 1) {
            "A number in the qcow header is too large (\($0))"
        }
    }
}
