import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the VMDK driver promises.
@Suite struct VmdkTests {
    static let sparse = [
        configuration("monolithicSparse", (3 << 20) + 512),
        configuration("monolithicSparse", (3 << 20) + 512, [("zeroed_grain", "on")]),
        configuration("twoGbMaxExtentSparse", 1 << 20),
    ]
    static let flat = [
        configuration("monolithicFlat", (1 << 20) + 512), configuration("twoGbMaxExtentFlat", 1 << 20),
    ]
    static let stream = [configuration("streamOptimized", (2 << 20) + 512, compresses: true)]

    static func configuration(
        _ subformat: String, _ size: Int, _ options: [(name: String, value: String)] = [],
        compresses: Bool = false
    ) -> FormatConfiguration {
        var configuration = FormatConfiguration(
            VmdkDriver.self, options: [(name: "subformat", value: subformat)] + options, virtualSize: size)
        configuration.compresses = compresses
        return configuration
    }

    static let overlays = ["on", "off"].map { zeroed in
        var configuration = configuration("monolithicSparse", (1 << 20) + 512, [("zeroed_grain", zeroed)])
        configuration.backingSize = 600 << 10
        configuration.backingIsSameFormat = true
        return configuration
    }
    /// Layouts as other programs make them: several files whose borders are inside grains, grains of one
    /// sector, tables that are not there yet, a COW disk.
    static let foreign = [
        made((1000 + 1025 + 600) * 512) { store in
            store["disk-s001"] = VmdkBytes.sparse(sectors: 1000, grainSectors: 8, hasTables: true)
            store["disk-s002"] = VmdkBytes.sparse(sectors: 1025, grainSectors: 64, hasTables: false)
            store["flat"] = SparseBytes(count: 608 * 512)
            store["disk"] = VmdkBytes.descriptor([
                "RW 1000 SPARSE \"disk-s001\"", "RW 1025 SPARSE \"disk-s002\"", "RW 600 FLAT \"flat\" 8",
            ])
        },
        made((600 + 512) * 512) { store in
            store["a"] = VmdkBytes.sparse(sectors: 600, grainSectors: 8, flags: 0x30003)
            store["b"] = VmdkBytes.sparse(sectors: 512, grainSectors: 32)
            store["disk"] = VmdkBytes.descriptor(["RW 600 SPARSE \"a\"", "RW 512 SPARSE \"b\""])
        },
        made(3000 * 512) { store in store["disk"] = VmdkBytes.cow(sectors: 3000, grainSectors: 1) },
        made(3000 * 512) { store in
            store["disk-000001-delta"] = VmdkBytes.cow(sectors: 3000, grainSectors: 16)
            store["disk"] = VmdkBytes.descriptor(["RW 3000 VMFSSPARSE \"disk-000001-delta\""])
        },
    ]

    static func made(
        _ size: Int, _ make: @escaping @Sendable (TestStore) throws -> Void
    ) -> FormatConfiguration {
        var configuration = FormatConfiguration(VmdkDriver.self, virtualSize: size)
        configuration.compresses = false
        configuration.makeFiles = make
        return configuration
    }

    @Test(.timeLimit(.minutes(5)), arguments: sparse + flat + stream + overlays + foreign)
    func conformance(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration])
    }
}
