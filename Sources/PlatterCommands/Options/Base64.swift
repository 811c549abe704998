import BlockCore

/// Base64 (RFC 4648, section 4).
enum Base64 {
    /// The bytes that `text` encodes; white space between the characters is passed over.
    ///
    /// - Throws: `invalidArgument` for other characters and wrong padding.
    static func decode(_ text: [UInt8]) throws(BlockError) -> [UInt8] {
        let characters = text.filter { ![0x20, 0x09, 0x0A, 0x0D].contains($0) }
        let padding = characters.reversed().prefix { $0 == UInt8(ascii: "=") }.count
        let digits = characters.dropLast(padding)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(digits.count * 3 / 4)
        var bits: UInt32 = 0
        var count = 0
        for digit in digits {
            guard let value = value(of: digit) else {
                throw BlockError(.invalidArgument, "Base64 data contains invalid characters")
            }
            bits = bits << 6 | value
            count += 6
            guard count >= 8 else { continue }
            count -= 8
            bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        }
        guard characters.count % 4 == 0, padding <= 2 else {
            throw BlockError(.invalidArgument, "Base64 data is not padded to groups of four characters")
        }
        return bytes
    }

    private static func value(of digit: UInt8) -> UInt32? {
        switch Unicode.Scalar(digit) {
        case "A"..."Z": UInt32(digit) - 65
        case "a"..."z": UInt32(digit) - 97 + 26
        case "0"..."9": UInt32(digit) - 48 + 52
        case "+": 62
        case "/": 63
        default: nil
        }
    }
}
