import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// What the VHDX driver promises.
@Suite struct VhdxTests {
    private static func configuration(
        _ options: [(name: String, value: String)], size: Int = (3 << 20) + 512
    ) -> FormatConfiguration {
        FormatConfiguration(
            VhdxDriver.self, options: [(name: "block_size", value: "1M")] + options, virtualSize: size)
    }

    static let kinds: [FormatConfiguration] = {
        var overlay = configuration([])
        overlay.backingSize = (2 << 20) + 4096
        overlay.backingIsSameFormat = true
        return [
            configuration([]), configuration([("subformat", "fixed")]),
            configuration([("block_state_zero", "off"), ("log_size", "2M")]), overlay,
        ]
    }()

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func conformance(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration])
    }
}

/// The checksum that VHDX keeps of its structures.
@Suite struct CRC32CTests {
    /// RFC 3720, appendix B.4, and the check value of the catalogues.
    @Test func hasTheKnownValues() {
        let texts: [([UInt8], UInt32)] = [
            (Array("123456789".utf8), 0xE306_9283), ([UInt8](repeating: 0, count: 32), 0x8A91_36AA),
            ([UInt8](repeating: 0xFF, count: 32), 0x62A8_AB43), (Array(0..<32), 0x46DD_794E), ([], 0),
        ]
        for (bytes, sum) in texts {
            #expect(CRC32C(of: bytes.span.bytes).value == sum)
            #expect(CRC32C.portable(bytes.span.bytes) == sum)
        }
    }

    @Test func partsAndBothWaysAgree() {
        var random = SeededRandom(seed: 7)
        for length in [1, 7, 8, 9, 63, 64, 65, 4096, 70001] {
            let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
            let cut = random.number(in: 0..<length)
            var sum = CRC32C()
            sum.add(Array(bytes[..<cut]).span.bytes)
            sum.add(Array(bytes[cut...]).span.bytes)
            #expect(sum == CRC32C(of: bytes.span.bytes))
            #expect(sum.value == CRC32C.portable(bytes.span.bytes))
        }
    }
}
