import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What is told of headers that cannot be opened, and the lines of a check, in QEMU's words.
@Suite struct Qcow2MessageTests {
    private static func failure(_ image: Qcow2Bytes) throws -> String {
        let configuration = FormatConfiguration(Qcow2Driver.self, virtualSize: 0)
        let store = TestStore(["disk": image.bytes])
        do throws(BlockError) {
            try configuration.open(in: store, settings: OpenSettings()).close()
            return ""
        } catch {
            return error.message
        }
    }

    /// An entry of the table of feature names.
    private static func entry(_ type: UInt8, _ bit: UInt8, _ name: String) -> [UInt8] {
        let bytes = [type, bit] + Array(name.utf8)
        return bytes + [UInt8](repeating: 0, count: 48 - bytes.count)
    }

    private static func featureMessage(_ bits: UInt64, _ table: [[UInt8]]) throws -> String {
        var image = Qcow2Bytes()
        image.put64(bits, at: Qcow2Bytes.Field.incompatible)
        image.setExtensions([(Qcow2Bytes.ExtensionType.featureNames, table.flatMap { $0 })])
        return try failure(image)
    }

    // MARK: Features

    @Test func featuresAreNamedByTheImage() throws {
        let table = [
            Self.entry(0, 0, "dirty bit"), Self.entry(1, 40, "no matter"), Self.entry(0, 40, "time travel"),
            Self.entry(0, 41, String(repeating: "n", count: 46)), Self.entry(0, 40, "again"),
        ]
        #expect(
            try Self.featureMessage(1 << 40, table) == "Unsupported qcow2 feature(s): time travel")
        #expect(
            try Self.featureMessage(1 << 40 | 1 << 41 | 1 << 63, table)
                == "Unsupported qcow2 feature(s): time travel, \(String(repeating: "n", count: 46)), "
                + "Unknown incompatible feature: 8000000000000000")
    }

    @Test func featuresWithoutNames() throws {
        let unknown = "Unsupported qcow2 feature(s): Unknown incompatible feature: 40"
        #expect(try Self.featureMessage(0x40, []) == unknown)
        #expect(try Self.featureMessage(0x40, [Self.entry(0, 6, "")]) == unknown)
        #expect(try Self.featureMessage(0x40, [Self.entry(0, 0, ""), Self.entry(0, 6, "late")]) == unknown)
        #expect(try Self.featureMessage(0x40, [Self.entry(0, 200, "far")]) == unknown)
    }

    /// Features that are not known may be why other fields make no sense.
    @Test func featuresGoBeforeRefcounts() throws {
        var image = Qcow2Bytes()
        image.put32(9, at: Qcow2Bytes.Field.refcountOrder)
        #expect(
            try Self.failure(image) == "Reference count entry width too large; may not exceed 64 bits")
        image.put64(0x40, at: Qcow2Bytes.Field.incompatible)
        #expect(try Self.failure(image).hasPrefix("Unsupported qcow2 feature(s)"))
        image.put32(.max, at: Qcow2Bytes.Field.refcountOrder)
        #expect(try Self.failure(image).hasPrefix("Unsupported qcow2 feature(s)"))
    }

    @Test func sizesThatAreTooSmallOrLarge() throws {
        var image = Qcow2Bytes(clusterBits: 12)
        image.put64(Qcow2Bytes.Incompatible.extendedL2, at: Qcow2Bytes.Field.incompatible)
        #expect(try Self.failure(image) == "Unsupported subcluster size: 128")
        image = Qcow2Bytes()
        image.put64(1 << 62, at: Qcow2Bytes.Field.size)
        #expect(try Self.failure(image) == "Image is too big")
    }

    // MARK: Checks

    private static func check(_ image: Qcow2Bytes) throws -> (lines: [String], result: CheckResult) {
        let configuration = FormatConfiguration(Qcow2Driver.self, virtualSize: 0)
        let store = TestStore(["disk": image.bytes])
        let node = try configuration.open(in: store, settings: OpenSettings(forCheck: true))
        defer { try? node.close() }
        var lines: [String] = []
        let result = try #require(node.format as? any Checkable).check(repair: .none) { lines.append($0) }
        return (lines, result)
    }

    @Test func damagedSubclusters() throws {
        var image = Qcow2Bytes(clusterBits: 14)
        image.put64(Qcow2Bytes.Incompatible.extendedL2, at: Qcow2Bytes.Field.incompatible)
        let data = UInt64(image.data)
        for (index, (entry, bitmap)) in [
            (data | Qcow2Bytes.copied, UInt64.max), (0, 1), ((data + 0x4000) | Qcow2Bytes.copied, 1),
        ].enumerated() {
            image.put64(entry, at: image.l2 + index * 16)
            image.put64(bitmap, at: image.l2 + index * 16 + 8)
        }
        let (lines, result) = try Self.check(image)
        #expect(
            lines == [
                "ERROR offset=14000: Allocated cluster has corrupted subcluster allocation bitmap",
                "ERROR: Unallocated cluster has non-zero subcluster allocation map",
            ])
        #expect(result.corruptions == 2 && result.leaks == 0 && result.allocatedClusters == 2)
    }

    /// What it seems to have is no leak.
    @Test(arguments: [(UInt64(0), "Data"), (1, "Preallocated")])
    func entriesThatPointIntoAClusters(_ flag: UInt64, _ word: String) throws {
        var image = Qcow2Bytes(clusterBits: 12)
        image.setL2(1, UInt64(image.data + 4096 + 512) | Qcow2Bytes.copied | flag)
        let (lines, result) = try Self.check(image)
        #expect(
            lines.first == "ERROR offset=6200: \(word) cluster is not properly aligned; L2 entry corrupted.")
        #expect(result.corruptions == 1 && result.leaks == 0, "\(lines)")
        #expect(result.allocatedClusters == 2 && result.fragmentedClusters == 1)
    }
}
