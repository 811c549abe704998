import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the VHD driver promises, for every kind of image.
@Suite struct VhdTests {
    static let sectorBytes = 512

    static func configuration(
        _ options: [String: String], size: Int, backingSize: Int? = nil
    ) -> FormatConfiguration {
        var result = FormatConfiguration(
            VhdDriver.self,
            options: options.sorted { $0.key < $1.key }.map { (name: $0.key, value: $0.value) },
            virtualSize: size, backingSize: backingSize)
        result.backingIsSameFormat = backingSize != nil
        return result
    }

    /// Blocks of 512 bytes, which are not made any more.
    private static func smallBlocks(size: Int) -> FormatConfiguration {
        var result = configuration(["block_size": "4096", "force_size": "on"], size: size)
        result.makeFiles = { store in
            let image = try VhdBytes(size: size, ["block_size": "4096", "force_size": "on"], in: store)
            image.setBlocks(count: size / 512, bytes: 512)
        }
        return result
    }

    static let kinds = [
        configuration(["subformat": "fixed", "force_size": "on"], size: (1 << 20) + 512),
        configuration(["force_size": "on"], size: (3 << 20) + 512),
        // 34 KiB is the size of the smallest geometry.
        configuration(["block_size": "4096"], size: 34816 * 4),
        smallBlocks(size: 40960),
        configuration(["block_size": "65536", "force_size": "on"], size: 1 << 20),
        configuration(["block_size": "4096"], size: 256 << 10, backingSize: 200 << 10),
        configuration(["block_size": "32768"], size: (1 << 20) - 512, backingSize: (1 << 20) - 512),
        configuration([:], size: 3 << 20, backingSize: 3 << 20),
    ]

    @Test(.timeLimit(.minutes(5)), arguments: kinds.indices) func conformance(_ kind: Int) throws {
        try checkFormatDriver([Self.kinds[kind]])
    }
}
