import BlockCore
import Testing

/// The accept and reject rules were measured with qemu-img.
@Suite struct SizeParserTests {
    @Test(
        arguments: [
            ("0", 0), ("1", 1), ("010", 10), ("+5", 5), (" 5", 5), ("1k", 1024), ("1K", 1024), ("1b", 1),
            ("1.", 1), ("1.0", 1), ("1.0b", 1), ("1.k", 1024), ("1.5k", 1536), ("1.1k", 1126),
            ("2M", 2 << 20),
            ("3g", 3 << 30), ("4T", 4 << 40), ("5P", 5 << 50), ("1E", 1 << 60), ("1.5E", 3 << 59),
            ("0x10", 16),
            ("0X1f", 31), ("18446744073709551615", UInt64.max),
        ] as [(String, UInt64)])
    func accepts(_ text: String, _ bytes: UInt64) {
        #expect(SizeParser.parse(text) == .success(bytes))
    }

    @Test(arguments: [
        "", "k", "0.5", "1.5b", "5 ", "-0", "1e3", "1kk", "1kB", "0x", "0xg", "0x1 ", "1.2.3k", ".", ".k",
        "+",
        "++1", "+-1", "１", "0x１", "1\0", "1ｋ", "nan", "inf",
    ])
    func refuses(_ text: String) { #expect(SizeParser.parse(text) == .failure(.malformed)) }

    @Test(arguments: [
        "16E", "-1", "-1k", "18446744073709551616", "99999999999999999999k", "0x10000000000000000",
        "15.99999999999999999999999E",
    ])
    func outOfRange(_ text: String) { #expect(SizeParser.parse(text) == .failure(.outOfRange)) }

    @Test func theDefaultSuffixCounts() {
        #expect(SizeParser.parse("2", defaultSuffix: "M") == .success(2 << 20))
        #expect(SizeParser.parse("2b", defaultSuffix: "M") == .success(2))
    }

    @Test func numbersAsInC() {
        #expect(CLikeNumber.unsigned("0x1F") == 31)
        #expect(CLikeNumber.unsigned("017") == 15)
        #expect(CLikeNumber.unsigned("0") == 0)
        for text in ["", "x", "-1", "+1", "1 ", "09", "0x", "１"] {
            #expect(CLikeNumber.unsigned(text) == nil)
        }
    }
}
