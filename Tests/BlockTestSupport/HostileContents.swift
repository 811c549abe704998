/// Damage to compressed clusters, snapshots, bitmaps and encryption headers.
extension HostileCase {
    private static func zlib(
        _ name: String, read: String?, _ payload: [UInt8], sectors: Int? = nil
    ) -> HostileCase {
        opens("zlib: \(name)", .nothing, read: read) { image in
            image.setCompressed(0, payload, at: image.data, sectors: sectors)
        }
    }

    private static func zstd(_ name: String, read: String?, _ payload: [UInt8]) -> HostileCase {
        opens("zstd: \(name)", .nothing, read: read) { image in
            image.put64(Incompatible.compression, at: Field.incompatible)
            image.write([1], at: Field.compressionType)
            image.setCompressed(0, payload, at: image.data)
        }
    }

    /// Deflate of 20,000 zeroes, made by zlib.
    private static let manyZeroes: [UInt8] = [
        0xed, 0xc1, 0x31, 0x01, 0x00, 0x00, 0x00, 0xc2, 0xa0, 0xf5, 0x4f, 0x6d, 0x0d,
        0x0f, 0xa0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x78, 0x30,
    ]

    /// Deflate in stored blocks of `counts` bytes each.
    private static func stored(_ counts: [Int], isEnded: Bool = true) -> [UInt8] {
        var bytes: [UInt8] = []
        for (index, count) in counts.enumerated() {
            let size = UInt16(count)
            bytes.append(isEnded && index == counts.count - 1 ? 1 : 0)
            for number in [size, ~size] { bytes += ImageBytes.little(number) }
            bytes += [UInt8](repeating: 0x5a, count: count)
        }
        return bytes
    }

    /// A Zstandard frame of blocks that repeat one byte.
    private static func frame(window: UInt8 = 0x70, contentSize: UInt64? = nil, blocks: [Int]) -> [UInt8] {
        var bytes: [UInt8] = [0x28, 0xb5, 0x2f, 0xfd, contentSize == nil ? 0 : 0xc0, window]
        if let contentSize { bytes += ImageBytes.little(contentSize) }
        for (index, count) in blocks.enumerated() {
            let isLast: UInt32 = index == blocks.count - 1 ? 1 : 0
            let header = UInt32(count) << 3 | 2 | isLast
            bytes += ImageBytes.little(header).prefix(3) + [0x5a]
        }
        return bytes
    }

    static let compressedData: [HostileCase] = [
        opens("zlib: good", .corruption) { image in
            // Two stored blocks need more than the cluster; the next one, of guest data, gets a second use.
            image.setCompressed(0, stored([32768, 32768]), at: image.data)
        },
        zlib("cut", read: "Compressed data", stored([32768, 20000], isEnded: false)),
        zlib("ends early", read: "Compressed data ends early", stored([30000, 30000])),
        zlib("nothing but zeroes", read: "Compressed data", [UInt8](repeating: 0, count: 100)),
        zlib(
            "noise", read: "Compressed data", (0..<100).map { UInt8($0 * 37 % 256) | 6 }),
        zlib("reserved block type", read: "Compressed data", [UInt8](repeating: 0xff, count: 100)),
        opens(
            "zlib: inflates too far", .nothing, read: "Compressed data inflates too far",
            Qcow2Bytes(clusterBits: 9)
        ) {
            image in
            image.setCompressed(0, manyZeroes, at: image.data)
        },
        zstd("good", read: nil, frame(blocks: [65536])),
        zstd("several frames", read: nil, frame(blocks: [60000]) + frame(blocks: [5536])),
        zstd("inflates too far", read: "inflates too far", frame(blocks: [65536, 65536])),
        zstd("ends early", read: "Compressed data", frame(blocks: [60000])),
        zstd("no frame", read: "Compressed data", [UInt8](repeating: 0, count: 100)),
        zstd("noise", read: "Compressed data", [0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        zstd("content size of 2^63", read: "Compressed data", frame(contentSize: 1 << 63, blocks: [65536])),
        zstd(
            "content size of 2^64 - 1, which says nothing", read: nil,
            frame(contentSize: .max, blocks: [65536])),
        zstd("window of 2^41 bytes", read: "Compressed data", frame(window: 0xff, blocks: [65536])),
        zstd("window of 2 GiB", read: nil, frame(window: 0xa8, blocks: [65536])),
        zstd(
            "skippable frames only", read: "Compressed data",
            [0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff]),
        opens("compressed beyond the file", .corruption, read: "bytes are missing", repairable: true) {
            image in
            image.setL2(0, Qcow2Bytes.compressed | 1 << 40)
        },
        opens(
            "compressed at the last offset there is", .corruption, read: "bytes are missing", repairable: true
        ) { image in
            image.setL2(0, Qcow2Bytes.compressed | (1 << 62 - 1))
        },
        opens(
            "compressed at the last offset, clusters of 512", .corruption, read: "bytes are missing",
            repairable: true, Qcow2Bytes(clusterBits: 9)
        ) { $0.setL2(0, Qcow2Bytes.compressed | (1 << 62 - 1)) },
        opens(
            "compressed at the last offset, clusters of 2 MiB", .corruption, read: "bytes are missing",
            repairable: true, Qcow2Bytes(clusterBits: 21)
        ) { $0.setL2(0, Qcow2Bytes.compressed | (1 << 62 - 1)) },
        opens("compressed with the copied flag", .corruption, repairable: true) { image in
            image.setCompressed(0, stored([32768, 32768]), at: image.data)
            image.setL2(0, image.get64(image.l2) | Qcow2Bytes.copied)
        },
        opens("compressed data in the header", .corruption, read: "Compressed data") {
            $0.setL2(0, Qcow2Bytes.compressed)
        },
    ]

    /// CVE-2014-0145 and CVE-2014-0146: snapshot tables that lie about their contents.
    static let snapshots: [HostileCase] = [
        opens("a snapshot", .nothing) { $0.addSnapshot() },
        damagedSnapshot("table beyond the file") { image, _ in image.put64(1 << 40, at: Field.snapshotsOffset)
        },
        damagedSnapshot("65536 entries, one there") { image, _ in image.put32(65536, at: Field.snapshotCount)
        },
        damagedSnapshot("extra data of 4 GiB") { image, table in
            image.put32(.max, at: table + Snapshot.extraSize)
        },
        damagedSnapshot("extra data of 1032 bytes") { image, table in
            image.put32(1032, at: table + Snapshot.extraSize)
        },
        damagedSnapshot("name beyond the file") { image, table in
            image.put16(.max, at: table + Snapshot.nameSize)
        },
        damagedSnapshot("ID beyond the file") { image, table in
            image.put16(.max, at: table + Snapshot.idSize)
        },
        damagedSnapshot("L1 misaligned", repairable: true) { image, table in
            image.put64(image.get64(table + Snapshot.l1Offset) + 512, at: table + Snapshot.l1Offset)
        },
        damagedSnapshot("L1 offset of 2^63") { image, table in
            image.put64(1 << 63, at: table + Snapshot.l1Offset)
        },
        damagedSnapshot("L1 of 2^32 - 1 entries", repairable: true) { image, table in
            image.put32(.max, at: table + Snapshot.l1Entries)
        },
        damagedSnapshot("L1 above 32 MiB", repairable: true) { image, table in
            image.put32(4 << 20 + 1, at: table + Snapshot.l1Entries)
        },
        opens("snapshot: L1 beyond the file", .corruption, repairable: true) { image in
            image.put64(1 << 40, at: image.addSnapshot() + Snapshot.l1Offset)
        },
        opens("snapshot: L1 is the active one", .corruption) { image in
            image.put64(UInt64(image.l1), at: image.addSnapshot() + Snapshot.l1Offset)
        },
        opens("snapshot: L1 is the active one, and all is counted", .corruption) { image in
            let table = image.addSnapshot()
            image.putRefcount(0, of: Int(image.get64(table + Snapshot.l1Offset)) / image.clusterSize)
            image.put64(UInt64(image.l1), at: table + Snapshot.l1Offset)
            for cluster in Cluster.l1..<Cluster.end { image.putRefcount(2, of: cluster) }
            image.put64(UInt64(image.l2), at: image.l1)
            for cluster in 0..<2 { image.setL2(cluster, UInt64(image.data + cluster * image.clusterSize)) }
        },
        opens("snapshot: L2 offset misaligned", .corruption, repairable: true) { image in
            let table = image.addSnapshot()
            image.put64(UInt64(image.l2 + 512), at: Int(image.get64(table + Snapshot.l1Offset)))
        },
        opens("snapshot: disk of 2^64 - 1 bytes", .nothing) { image in
            let table = image.addSnapshot()
            image.put64(.max, at: table + Snapshot.diskSize)
            image.put64(.max, at: table + Snapshot.stateSize64)
        },
        opens("snapshot: table is the header", .corruption) { image in
            image.addSnapshot()
            image.put64(0, at: Field.snapshotsOffset)
        },
    ]

    private static func damagedSnapshot(
        _ name: String, repairable: Bool = false, _ damage: (inout Qcow2Bytes, _ table: Int) -> Void
    ) -> HostileCase {
        opens("snapshot: \(name)", .corruption, repairable: repairable) { image in
            let table = image.addSnapshot()
            // The name has to reach past the end of the file, so the table is the last in it.
            damage(&image, table)
        }
    }

    static func bitmaps(_ count: UInt32, size: UInt64, offset: UInt64) -> (
        type: UInt32, data: [UInt8]
    ) {
        var data = ImageBytes.big(count) + [0, 0, 0, 0]
        for number in [size, offset] { data += ImageBytes.big(number) }
        return (ExtensionType.bitmaps, data)
    }

    private static func luks(offset: UInt64, size: UInt64) -> (type: UInt32, data: [UInt8]) {
        (
            ExtensionType.encryption,
            [offset, size].flatMap { number in ImageBytes.big(number) }
        )
    }

    private static let absurd: [(UInt32, UInt64, UInt64)] = [
        (1, 1 << 63, 0), (.max, .max, .max), (1, 24, 1 << 63), (.max, 64 << 20, 1 << 16), (1, 0, 0),
        (65535, 1 << 16, 6 << 16), (1, 1 << 40, 1 << 16),
    ]

    static let otherMetadata: [HostileCase] =
        absurd.map { count, size, offset in
            opens("bitmaps: \(count) in \(size) bytes at \(offset)", .corruption) {
                $0.put64(Autoclear.bitmaps, at: Field.autoclear)
                $0.setExtensions([bitmaps(count, size: size, offset: offset)])
            }
        }
        + [
            (UInt64(1) << 63, UInt64(1) << 63), (.max, .max), (1 << 40, 1 << 16),
            (0x7fff_ffff_ffff_0000, 1 << 16),
        ].map {
            offset, size in
            opens("encryption header of \(size) bytes at \(offset)", .corruption) {
                $0.setExtensions([luks(offset: offset, size: size)])
            }
        }
        + [
            opens("bitmaps extension cut", .corruption) {
                $0.put64(Autoclear.bitmaps, at: Field.autoclear)
                $0.setExtensions([(ExtensionType.bitmaps, [1, 2, 3])])
            },
            opens("encryption extension cut", .corruption) {
                $0.setExtensions([(ExtensionType.encryption, [1, 2, 3])])
            },
            opens("dirty and corrupt", .nothing) {
                $0.put64(Incompatible.dirty | Incompatible.corrupt, at: Field.incompatible)
            },
            opens("autoclear bits all set", .nothing) { $0.put64(.max, at: Field.autoclear) },
            opens("compatible bits all set", .nothing) { $0.put64(.max, at: Field.compatible) },
        ]

    private static let luksPlaces: [(UInt64, UInt64)] = [
        (1 << 63, 1 << 63), (.max, .max), (1 << 40, 1 << 16), (0, 1 << 16), (1, 1 << 16),
        (0x7fff_ffff_ffff_0000, 1 << 16), (1 << 16, 1), (1 << 16, 1 << 40),
    ]

    /// Images that are said to be encrypted, with a LUKS header that cannot be.
    static let encryption: [HostileCase] =
        luksPlaces.map { offset, size in
            refused("LUKS header of \(size) bytes at \(offset)", "ncryption header") {
                $0.put32(2, at: Field.crypt)
                $0.setExtensions([luks(offset: offset, size: size)])
            }
        } + [
            refused("LUKS header that is none", "not in LUKS format") {
                $0.put32(2, at: Field.crypt)
                $0.setExtensions([luks(offset: 1 << 16, size: 1 << 16)])
            }
        ]
}
