import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// A backing file that ends inside a unit: zeroes behind its end, in the same unit, leave its bytes.
@Suite struct ZeroesBehindBackingTests {
    private static let size = 1 << 20
    private static let backing = (96 << 10) + 512

    static let configurations: [FormatConfiguration] = [
        plain(Qcow2Driver.self), plain(Qcow2Driver.self, [("compat", "0.10")]),
        plain(Qcow2Driver.self, [("extended_l2", "on")]), plain(QedDriver.self), plain(QcowDriver.self),
        same(VmdkDriver.self, [("zeroed_grain", "on")]), same(VmdkDriver.self, [("zeroed_grain", "off")]),
        same(VmdkDriver.self, [("subformat", "twoGbMaxExtentSparse")]), same(VhdxDriver.self),
        same(VhdDriver.self),
    ]

    private static func plain(
        _ format: any Creatable.Type, _ options: [(name: String, value: String)] = []
    ) -> FormatConfiguration {
        FormatConfiguration(format, options: options, virtualSize: size, backingSize: backing)
    }

    private static func same(
        _ format: any Creatable.Type, _ options: [(name: String, value: String)] = []
    ) -> FormatConfiguration {
        var configuration = plain(format, options)
        configuration.backingIsSameFormat = true
        return configuration
    }

    /// In the unit in which the backing file ends, over its end, from the middle of a unit over several, and
    /// up to the middle of one.
    static let zeroed = [
        (100 << 10)..<(104 << 10), (96 << 10)..<(97 << 10), (3 << 10)..<(13 << 10), (3 << 10)..<(900 << 10),
        (90 << 10)..<(400 << 10), (128 << 10)..<(200 << 10),
    ]

    @Test(.timeLimit(.minutes(2)), arguments: configurations)
    func theBackingFilesBytesStay(_ configuration: FormatConfiguration) throws {
        for range in Self.zeroed {
            for flags in [ZeroFlags.mayUnmap, []] {
                try check(configuration, range) {
                    try $0.writeZeroes(at: $1.lowerBound, count: $1.count, flags: flags)
                }
            }
            try check(configuration, range) {
                try $0.write([UInt8](repeating: 0, count: $1.count).span.bytes, at: $1.lowerBound)
            }
        }
    }

    private func check(
        _ configuration: FormatConfiguration, _ range: Range<Int>,
        _ zero: (BlockNode, Range<Int>) throws -> Void
    ) throws {
        let store = TestStore()
        _ = try configuration.create(in: store)
        var settings = OpenSettings(readOnly: false)
        settings.detectZeroes = .on
        let node = try configuration.open(in: store, settings: settings)
        var expected = try node.readBytes(at: 0, count: Self.size)
        #expect(expected[..<Self.backing].contains { $0 != 0 })
        try zero(node, range)
        expected.replaceSubrange(range, with: repeatElement(0, count: range.count))
        #expect(try node.readBytes(at: 0, count: Self.size) == expected, "\(range)")
        try node.close()
        let reader = try configuration.open(in: store, settings: OpenSettings())
        #expect(try reader.readBytes(at: 0, count: Self.size) == expected, "\(range), opened again")
        try reader.close()
    }
}
