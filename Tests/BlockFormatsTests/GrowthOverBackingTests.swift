import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// A disk that grows over a longer backing file shows zeroes in its new part, whenever it is stopped.
@Suite struct GrowthOverBackingTests {
    struct Growth: Sendable, CustomTestStringConvertible {
        var configuration: FormatConfiguration
        var size: Int
        var testDescription: String { "\(configuration) to \(size)" }
    }

    static let growths = [
        qed((2 << 20) - 3 * 4096 - 1536, backing: (2 << 20) + 40_000, to: (2 << 20) + 65536),
        qed(5120, backing: 20_000, to: 30_720), vmdk("on"), vmdk("off"), split, vdi,
        parallels(to: 6 * 4096 + 512), parallels(to: 200 * 4096),
    ]

    /// The last cluster is not whole, and not stored. The larger disk takes a longer table.
    private static func parallels(to size: Int) -> Growth {
        let before = 2 * 4096 - 1536
        var configuration = FormatConfiguration(ParallelsDriver.self, virtualSize: before)
        configuration.checkMayRepairAfterCrash = true
        configuration.makeFiles = { store in
            store["base"] = noise(5 * 4096 + 1000)
            let opener = ImageOpener(registry: store.registry([ParallelsDriver.self, RawDriver.self]))
            var values = try opener.createOptions(format: "parallels", filename: "disk")
            try values.set(.clusterSize, to: "4096")
            try values.set(.size, to: String(before))
            try opener.create("disk", format: "parallels", options: values)
        }
        configuration.openOptions["backing.driver"] = "raw"
        configuration.openOptions["backing.file.filename"] = "base"
        return Growth(configuration: configuration, size: size)
    }

    private static func qed(_ before: Int, backing: Int, to size: Int) -> Growth {
        let options = [(name: "cluster_size", value: "4096"), (name: "table_size", value: "1")]
        return Growth(
            configuration: FormatConfiguration(
                QedDriver.self, options: options, virtualSize: before, backingSize: backing), size: size)
    }

    /// The new size takes another grain table.
    private static func vmdk(_ zeroed: String) -> Growth {
        var configuration = VmdkTests.configuration(
            "monolithicSparse", (200 << 10) + 512, [("zeroed_grain", zeroed)])
        configuration.backingSize = 400 << 10
        configuration.backingIsSameFormat = true
        return Growth(configuration: configuration, size: 40 << 20)
    }

    /// The second part grows, and there is a third one.
    private static let split = Growth(
        configuration: VmdkTests.made(88 * 512) { store in
            store["base-flat"] = noise(160 * 512)
            store["base"] = VmdkBytes.descriptor(["RW 160 FLAT \"base-flat\" 0"])
            store["disk-s001"] = VmdkBytes.sparse(sectors: 64)
            store["disk-s002"] = VmdkBytes.sparse(sectors: 24, flags: 7)
            store["disk"] = VmdkBytes.descriptor(
                ["RW 64 SPARSE \"disk-s001\"", "RW 24 SPARSE \"disk-s002\""],
                createType: "twoGbMaxExtentSparse", parent: "base")
        }, size: 180 * 512)

    private static var vdi: Growth {
        var configuration = FormatConfiguration(VdiDriver.self, virtualSize: 2 * 4096 - 1536)
        configuration.makeFiles = { store in
            store["base"] = noise(5 * 4096)
            store["disk"] = VdiImageTests.image(
                type: 4, size: 2 * 4096 - 1536, [0xFFFF_FFFF, 0xFFFF_FFFF])
        }
        configuration.openOptions["backing.driver"] = "raw"
        configuration.openOptions["backing.file.filename"] = "base"
        return Growth(configuration: configuration, size: 1000 * 4096)
    }

    private static func noise(_ count: Int) -> SparseBytes {
        SparseBytes(Pattern.bytes(stamp: -1, at: 0, count: count))
    }

    @Test(.timeLimit(.minutes(4)), arguments: growths) func theBackingFileStaysHidden(_ growth: Growth) throws
    {
        let configuration = growth.configuration
        let before = configuration.virtualSize
        let store = TestStore()
        _ = try configuration.create(in: store)
        let reader = try configuration.open(in: store, settings: OpenSettings())
        let old = try reader.readBytes(at: 0, count: before)
        try reader.close()
        try checkInterruption(
            of: store.files, action: { store in try Self.resize(configuration, store, to: growth.size) },
            verify: { store in
                try Self.compare(configuration, store, old, [before, growth.size])
                try Self.check(configuration, store)
                // What was left behind must not be in the way, nor show later.
                do { try Self.resize(configuration, store, to: growth.size + 8192) } catch let error
                    as BlockError
                {
                    // Files of an interrupted growth are not taken for new ones.
                    guard error.kind == .exists else { throw error }
                    return
                }
                try Self.check(configuration, store)
                try Self.compare(configuration, store, old, [growth.size + 8192])
            })
    }

    private static func resize(_ configuration: FormatConfiguration, _ store: TestStore, to size: Int) throws
    {
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        do { try node.resize(to: size) } catch {
            try? node.close()
            throw error
        }
        try node.close()
    }

    private static func compare(
        _ configuration: FormatConfiguration, _ store: TestStore, _ old: [UInt8], _ sizes: [Int]
    ) throws {
        let node = try configuration.open(in: store, settings: OpenSettings())
        defer { try? node.close() }
        let size = try node.length()
        guard sizes.contains(size) else { throw Mismatch("size \(size)") }
        guard try node.readBytes(at: 0, count: old.count) == old else { throw Mismatch("lost bytes") }
        let shown = try node.readBytes(at: old.count, count: min(size - old.count, 256 << 10))
        guard shown.allSatisfy({ $0 == 0 }) else { throw Mismatch("the backing file shows") }
    }

    private static func check(_ configuration: FormatConfiguration, _ store: TestStore) throws {
        // The mark of a session that did not end is no damage.
        let mends = configuration.checkMayRepairAfterCrash
        let settings = OpenSettings(readOnly: !mends, withoutBacking: true, forCheck: true)
        let node = try configuration.open(in: store, settings: settings)
        defer { try? node.close() }
        let result = try #require(node.format as? any Checkable).check(repair: mends ? .all : .none) { _ in }
        guard result.corruptions == 0 else { throw Mismatch("\(result)") }
    }
}
