/// Base64 (RFC 4648, section 4).
public enum Base64 {
    /// The bytes that `text` encodes; white space between the characters is skipped.
    ///
    /// - Throws: `invalidArgument` for other characters and wrong padding.
    public static func decode(_ text: [UInt8]) throws(BlockError) -> [UInt8] {
        try decode(text[...])
    }

    /// The same for a part of a text.
    ///
    /// - Throws: `invalidArgument` for other characters and wrong padding.
    public static func decode(_ text: ArraySlice<UInt8>) throws(BlockError) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count / 4 * 3)
        var bits: UInt32 = 0
        var digits = 0
        var padding = 0
        for character in text {
            if isSpace(character) { continue }
            if character == UInt8(ascii: "=") {
                padding += 1
                continue
            }
            guard padding == 0, let value = value(of: character) else {
                throw BlockError(.invalidArgument, "Base64 data contains invalid characters")
            }
            bits = bits << 6 | value
            digits += 1
            // After 2, 3 and 4 of four digits another byte is complete.
            if digits % 4 != 1 { bytes.append(UInt8(truncatingIfNeeded: bits >> bitsAhead(digits))) }
        }
        guard (digits + padding) % 4 == 0, padding <= 2 else {
            throw BlockError(.invalidArgument, "Base64 data is not padded to groups of four characters")
        }
        return bytes
    }

    /// How many bits of the next byte are in the first `digits` digits.
    private static func bitsAhead(_ digits: Int) -> UInt32 {
        switch digits % 4 {
        case 2: 4
        case 3: 2
        default: 0
        }
    }

    private static func isSpace(_ character: UInt8) -> Bool {
        character == 0x20 || character == 0x09 || character == 0x0A || character == 0x0D
    }

    private static func value(of digit: UInt8) -> UInt32? {
        switch digit {
        case 0x41...0x5A: UInt32(digit) - 0x41
        case 0x61...0x7A: UInt32(digit) - 0x61 + 26
        case 0x30...0x39: UInt32(digit) - 0x30 + 52
        case 0x2B: 62
        case 0x2F: 63
        default: nil
        }
    }
}
