/// Damage to refcounts, L1 and L2 tables.
extension HostileCase {
    /// CVE-2014-0147 (refcount blocks), CVE-2014-0148, and what QEMU calls metadata overlaps.
    static let refcounts: [HostileCase] = [
        opens("refcount block misaligned", .corruption, repairable: true) {
            $0.put64(UInt64($0.refcountBlock + 512), at: $0.refcountTable)
        },
        opens("refcount block beyond the file", .corruption, repairable: true) {
            $0.put64(1 << 40, at: $0.refcountTable)
        },
        opens("refcount block at 2^56 - 64 KiB", .corruption, repairable: true) {
            $0.put64(Qcow2Bytes.lastOffset, at: $0.refcountTable)
        },
        opens("refcount block with reserved bits", .corruption, repairable: true) {
            $0.put64(UInt64($0.refcountBlock) | 0x1ff, at: $0.refcountTable)
        },
        opens("refcount block is the header", .corruption, repairable: true) {
            $0.put64(UInt64($0.clusterSize), at: $0.refcountTable + 8)
            $0.put64(0, at: $0.refcountTable)
        },
        opens("refcount block is an L2 table", .corruption, repairable: true) {
            $0.put64(UInt64($0.l2), at: $0.refcountTable)
        },
        opens("refcount block used twice", .corruption, repairable: true) {
            $0.put64(UInt64($0.refcountBlock), at: $0.refcountTable + 8)
        },
        opens("no refcount block", .corruption, repairable: true) { $0.put64(0, at: $0.refcountTable) },
        opens("all refcounts 0", .corruption, repairable: true) { image in
            for cluster in 0..<Cluster.end { image.putRefcount(0, of: cluster) }
        },
        opens("all refcounts at most", .corruption, repairable: true) { image in
            image.write([UInt8](repeating: 0xff, count: image.clusterSize), at: image.refcountBlock)
        },
        opens("header not counted", .corruption, repairable: true) { $0.putRefcount(0, of: Cluster.header) },
        opens("refcount table not counted", .corruption, repairable: true) {
            $0.putRefcount(0, of: Cluster.refcountTable)
        },
        opens("refcount block not counted", .corruption, repairable: true) {
            $0.putRefcount(0, of: Cluster.refcountBlock)
        },
        opens("L1 not counted", .corruption, repairable: true) { $0.putRefcount(0, of: Cluster.l1) },
        opens("L2 not counted", .corruption, repairable: true) { $0.putRefcount(0, of: Cluster.l2) },
        opens("data not counted", .corruption, repairable: true) { $0.putRefcount(0, of: Cluster.data) },
        opens("data counted twice", .corruption, repairable: true) { $0.putRefcount(2, of: Cluster.data) },
        opens("refcounts of one bit, all 0", .corruption, repairable: true, Qcow2Bytes(refcountOrder: 0)) {
            image in
            for cluster in 0..<Cluster.end { image.putRefcount(0, of: cluster) }
        },
        opens("refcount of 2^64 - 1", .corruption, repairable: true, Qcow2Bytes(refcountOrder: 6)) {
            $0.putRefcount(.max, of: Cluster.data)
        },
        opens("refcount table overlaps the L1", .corruption) { image in
            image.put64(UInt64(image.l1), at: Field.refcountOffset)
        },
        opens("refcount table is its own block", .corruption) { image in
            image.put64(UInt64(image.refcountBlock), at: Field.refcountOffset)
        },
    ]

    /// CVE-2014-0142 (divisions by zero), CVE-2014-0145, CVE-2014-0146, CVE-2014-0223 concern such numbers.
    static let mappings: [HostileCase] =
        [false, true].map { isVersion2 in
            opens(
                "L2 offset misaligned\(isVersion2 ? ", version 2" : "")", .corruption, read: "unaligned",
                repairable: true, Qcow2Bytes(version: isVersion2 ? 2 : 3)
            ) { $0.put64(UInt64($0.l2 + 512) | Qcow2Bytes.copied, at: $0.l1) }
        }
        + [
            opens("L2 table beyond the file", .corruption, read: "beyond the end", repairable: true) {
                $0.put64(1 << 40 | Qcow2Bytes.copied, at: $0.l1)
            },
            opens("L2 table at 2^56 - 64 KiB", .corruption, read: "beyond the end", repairable: true) {
                $0.put64(Qcow2Bytes.lastOffset | Qcow2Bytes.copied, at: $0.l1)
            },
            opens("L1 entry with reserved bits", .corruption, repairable: true) {
                $0.put64($0.get64($0.l1) | 0x7f << 56 | 0x1ff, at: $0.l1)
            },
            opens("L2 table is the L1", .corruption) {
                $0.put64(UInt64($0.l1) | Qcow2Bytes.copied, at: $0.l1)
            },
            opens("L2 table is the refcount table", .corruption) {
                $0.put64(UInt64($0.refcountTable) | Qcow2Bytes.copied, at: $0.l1)
            },
            opens("L2 table is the refcount block", .corruption, read: "bytes are missing") {
                $0.put64(UInt64($0.refcountBlock) | Qcow2Bytes.copied, at: $0.l1)
            },
            opens("L2 table used twice", .corruption, repairable: true, Qcow2Bytes(virtualSize: 1 << 30)) {
                $0.put64(UInt64($0.l2) | Qcow2Bytes.copied, at: $0.l1 + 8)
            },
            opens("data misaligned", .corruption, read: "unaligned", repairable: true) {
                $0.setL2(0, UInt64($0.data + 512) | Qcow2Bytes.copied)
            },
            opens("zero cluster misaligned", .corruption, read: "unaligned", repairable: true) {
                $0.setL2(0, UInt64($0.data + 512) | Qcow2Bytes.copied | Qcow2Bytes.zero)
            },
            opens("data beyond the file", .corruption, read: "bytes are missing", repairable: true) {
                $0.setL2(0, 1 << 40 | Qcow2Bytes.copied)
            },
            opens("data at 2^56 - 64 KiB", .corruption, read: "bytes are missing", repairable: true) {
                $0.setL2(0, Qcow2Bytes.lastOffset | Qcow2Bytes.copied)
            },
            opens("L2 entry with reserved bits", .corruption, repairable: true) {
                $0.setL2(0, $0.get64($0.l2) | 0x3f << 56)
            },
            opens("data is the refcount table", .corruption) {
                $0.setL2(0, UInt64($0.refcountTable) | Qcow2Bytes.copied)
            },
            opens("data is the refcount block", .corruption) {
                $0.setL2(0, UInt64($0.refcountBlock) | Qcow2Bytes.copied)
            },
            opens("data is the L1", .corruption) { $0.setL2(0, UInt64($0.l1) | Qcow2Bytes.copied) },
            opens("data is the L2", .corruption) { $0.setL2(0, UInt64($0.l2) | Qcow2Bytes.copied) },
            opens("data used twice", .corruption) { $0.setL2(1, UInt64($0.data) | Qcow2Bytes.copied) },
            opens("copied flag missing", .corruption, repairable: true) { $0.setL2(0, UInt64($0.data)) },
            opens("L1 entry without copied flag", .corruption, repairable: true) {
                $0.put64(UInt64($0.l2), at: $0.l1)
            },
            opens("zero flag in version 2", .corruption, repairable: true, Qcow2Bytes(version: 2)) {
                $0.setL2(0, UInt64($0.data) | Qcow2Bytes.copied | Qcow2Bytes.zero)
            },
            refused("file cut in the refcount block", "beyond the end of the file") {
                $0.resize(to: $0.refcountBlock + 100)
            },
            opens("file cut in the L2 table", .corruption, read: "bytes are missing") {
                $0.resize(to: $0.l2 + 100)
            },
        ]
}
