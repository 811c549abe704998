import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

@Suite struct RawTests {
    @Test(.timeLimit(.minutes(1)), arguments: [1 << 20, 512, 65536 + 1536])
    func conformance(size: Int) throws {
        try checkFormatDriver([FormatConfiguration(RawDriver.self, virtualSize: size)])
    }
}
