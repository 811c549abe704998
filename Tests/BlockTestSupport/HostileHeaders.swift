/// Damage to the header and what it points to.
extension HostileCase {
    /// CVE-2014-0143 (sizes that overflow), CVE-2014-0144 (missing input validation), CVE-2014-0147 (bad
    /// numbers).
    static let headers: [HostileCase] =
        [0, 8, 22, 31, 63, 64, 0xffff_ffff].map { bits in
            refused("cluster_bits \(bits)", "Unsupported cluster size: 2^\(bits)") {
                $0.put32(bits, at: Field.clusterBits)
            }
        }
        + [0, 1, 4, 0x1_0000, 0xffff_ffff].map { version in
            refused("version \(version)", version < 2 ? "qcow2" : "Unsupported qcow2 version \(version)") {
                $0.put32(version, at: Field.version)
            }
        }
        + [7, 64, 0xffff_ffff].map { order in
            refused("refcount_order \(order)", "Reference count entry width too large") {
                $0.put32(order, at: Field.refcountOrder)
            }
        }
        + [1 << 63, .max, UInt64(Int64.max), 1 << 62].map { size in
            refused(
                "virtual size \(size)", size >= 1 << 63 ? "image size is too large" : "Image is too big"
            ) {
                $0.put64(size, at: Field.size)
            }
        }
        + [0, 103, 0x1_0001, 0xffff_ffff].map { length in
            refused("header_length \(length)", "qcow2 header") { $0.put32(length, at: Field.headerLength) }
        }
        + [
            refused("encryption method 3", "Unsupported encryption method 3") {
                $0.put32(3, at: Field.crypt)
            },
            refused("compression type 2", "unknown compression type: 2") {
                $0.put64(Incompatible.compression, at: Field.incompatible)
                $0.write([2], at: Field.compressionType)
            },
            refused("zstd without its bit", "Compression type incompatible feature bit must be set") {
                $0.write([1], at: Field.compressionType)
            },
            refused("zlib with the bit of zstd", "Compression type incompatible feature bit must not be set")
            {
                $0.put64(Incompatible.compression, at: Field.incompatible)
            },
        ]

    /// Offsets that no table can have.
    private static let badOffsets: [UInt64] = [1 << 63, .max, .max - 0xffff, 0x7fff_ffff_ffff_0000]

    /// CVE-2014-0143, CVE-2014-0144, CVE-2014-0145: L1, refcount and snapshot tables of absurd size and
    /// place.
    static let headerTables: [HostileCase] =
        badOffsets.prefix(3).map { offset in
            refused("snapshot table offset \(offset)", "Snapshot table") {
                $0.put64(offset, at: Field.snapshotsOffset)
                $0.put32(1, at: Field.snapshotCount)
            }
        }
        + badOffsets.map { offset in
            refused("L1 offset \(offset)", "L1 table offset") { $0.put64(offset, at: Field.l1Offset) }
        }
        + badOffsets.map { offset in
            refused("refcount table offset \(offset)", "Reference count table offset") {
                $0.put64(offset, at: Field.refcountOffset)
            }
        }
        + [
            refused("L1 misaligned", "Active L1 table offset invalid") {
                $0.put64(UInt64($0.l1 + 512), at: Field.l1Offset)
            },
            refused("L1 beyond the file", "Active L1 table offset is beyond the end of the file") {
                $0.put64(1 << 40, at: Field.l1Offset)
            },
            refused("L1 of no entries", "L1 table is too small") { $0.put32(0, at: Field.l1Entries) },
            refused("L1 too small for the disk", "L1 table is too small", Qcow2Bytes(virtualSize: 1 << 40)) {
                $0.put32(1, at: Field.l1Entries)
            },
            refused("disk of 1 EiB with a tiny L1", "L1 table is too small") {
                $0.put64(1 << 60, at: Field.size)
            },
            refused("L1 of 32 MiB and an entry", "Active L1 table too large") {
                $0.put32(4 << 20 + 1, at: Field.l1Entries)
            },
            refused("L1 of 2^32 - 1 entries", "Active L1 table too large") {
                $0.put32(.max, at: Field.l1Entries)
            },
            refused("refcount table of no clusters", "does not contain a reference count table") {
                $0.put32(0, at: Field.refcountClusters)
            },
            refused("refcount table at 0", "does not contain a reference count table") {
                $0.put64(0, at: Field.refcountOffset)
            },
            refused("refcount table of 2^32 - 1 clusters", "Reference count table too large") {
                $0.put32(.max, at: Field.refcountClusters)
            },
            refused("refcount table above 8 MiB", "Reference count table too large") {
                $0.put32(129, at: Field.refcountClusters)
            },
            refused("refcount table misaligned", "Reference count table offset invalid") {
                $0.put64(UInt64($0.refcountTable + 512), at: Field.refcountOffset)
            },
            refused("refcount table beyond the file", "Reference count table offset is beyond") {
                $0.put64(1 << 40, at: Field.refcountOffset)
            },
            refused("2^32 - 1 snapshots", "Snapshot table too large") {
                $0.put32(.max, at: Field.snapshotCount)
            },
            refused("65537 snapshots", "Snapshot table too large") {
                $0.put32(65537, at: Field.snapshotCount)
            },
            refused("snapshot table misaligned", "Snapshot table offset invalid") {
                $0.addSnapshot()
                $0.put64(UInt64($0.end - 512), at: Field.snapshotsOffset)
            },
            refused("snapshot table of no entries misaligned", "Snapshot table offset invalid") {
                $0.put64(512, at: Field.snapshotsOffset)
            },
        ]

    /// Backing names. CVE-2014-0144, CVE-2015-5163 (an image may not make the reader open what it likes by
    /// accident).
    static let names: [HostileCase] = [
        refused("backing name of 1024 bytes", "Backing file name too long") {
            $0.setBacking([UInt8](repeating: 0x61, count: 1024))
        },
        refused("backing name of 4 GiB", "Backing file name too long") {
            $0.setBacking(Array("base".utf8), statedSize: .max)
        },
        refused("backing name outside the first cluster", "Invalid backing file offset") {
            $0.setBacking(Array("base".utf8), at: 2 << 16)
        },
        refused("backing name over the end of the first cluster", "Invalid backing file offset") {
            $0.setBacking(Array("base".utf8), at: 1 << 16 - 2)
        },
        refused("backing offset of 2^63", "Backing file offset is too large") {
            $0.put64(1 << 63, at: Field.backingOffset)
            $0.put32(4, at: Field.backingSize)
        },
        refused("backing offset of 2^63 - 1", "Invalid backing file offset") {
            $0.put64(UInt64(Int64.max), at: Field.backingOffset)
            $0.put32(4, at: Field.backingSize)
        },
        refused("backing name with a zero byte", "contains a zero byte") {
            $0.setBacking([0x61, 0, 0x62])
        },
    ]

    static let extensions: [HostileCase] = [
        refused("extension longer than the cluster", "Header extension too large") {
            $0.setExtensions([(ExtensionType.unknown, [1, 2, 3])])
            $0.put32(.max, at: Field.extensions + Extension.length)
        },
        refused("end marker of 4 GiB", "Header extension too large") {
            $0.setExtensions([])
            $0.put32(.max, at: Field.extensions + Extension.length)
        },
        refused("extension that reaches the next cluster", "Header extension too large") {
            $0.setExtensions([(ExtensionType.unknown, [1, 2, 3])])
            let room = $0.clusterSize - Field.extensions - Extension.data
            $0.put32(UInt32(room + 1), at: Field.extensions + Extension.length)
        },
        refused("extension cut by the backing name", "Header extension too large") {
            $0.setBacking(Array("base".utf8), at: Field.extensions + Extension.data + 4)
            $0.put32(ExtensionType.unknown, at: Field.extensions)
            $0.put32(32, at: Field.extensions + Extension.length)
        },
        refused("backing format of 64 bytes", "Backing format name is longer") {
            $0.setExtensions([(ExtensionType.backingFormat, [UInt8](repeating: 0x71, count: 64))])
        },
        opens("thousands of extensions", .nothing) { image in
            image.setExtensions((0..<8000).map { (UInt32(0x1000 + $0), []) })
        },
        opens("no end marker before the cluster ends", .nothing) { image in
            let room = image.clusterSize - Field.extensions - Extension.data
            image.setExtensions([(ExtensionType.unknown, [UInt8](repeating: 7, count: room))])
            image.put64(UInt64(image.refcountBlock), at: image.refcountTable)
        },
    ]

    static let features: [HostileCase] = [
        refused("unknown feature without a name", "Unknown incompatible feature: 8000000000000000") {
            $0.put64(1 << 63, at: Field.incompatible)
        },
        refused("all features", "Unsupported qcow2 feature(s)") { $0.put64(.max, at: Field.incompatible) },
        refused("unknown feature with a name", "Unsupported qcow2 feature(s): time travel") {
            $0.put64(1 << 40, at: Field.incompatible)
            $0.setExtensions([(ExtensionType.featureNames, featureName(0, 40, "time travel"))])
        },
        refused(
            "feature table with bits of 255, cut, and of 46 letters", "Unknown incompatible feature: 80000"
        ) {
            $0.put64(1 << 43 | 1 << 44, at: Field.incompatible)
            let long = String(repeating: "x", count: 46)
            let table =
                featureName(0, 255, "no") + featureName(3, 43, "no") + featureName(0, 44, long) + [0, 43, 1]
            $0.setExtensions([(ExtensionType.featureNames, table)])
        },
        refused("data file that is not there", "No such file or directory") {
            $0.put64(Incompatible.dataFile, at: Field.incompatible)
            $0.setExtensions([(ExtensionType.dataFile, Array("/nonexistent/data".utf8))])
        },
        refused("encryption without a header", "encryption") { $0.put32(2, at: Field.crypt) },
    ]

    private static func featureName(_ type: UInt8, _ bit: UInt8, _ name: String) -> [UInt8] {
        let text = Array(name.utf8)
        return [type, bit] + text + [UInt8](repeating: 0, count: 46 - text.count)
    }
}
