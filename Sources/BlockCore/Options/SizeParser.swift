/// Parses sizes such as `64k`, `1.5G`, `0x200`, `10`.
///
/// Suffixes are powers of 1024: `B`/`b` 1, `K`, `M`, `G`, `T`, `P`, `E`, in either case. A fraction is
/// allowed with decimal digits and a suffix above bytes; hexadecimal takes neither fraction nor suffix.
public enum SizeParser {
    /// The reason why a text is no size.
    public enum Failure: Error, Sendable, Equatable {
        /// Not a size.
        case malformed
        /// A size of 2^64 bytes or more.
        case outOfRange
    }

    private static let shifts: [Character: Int] = [
        "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60,
    ]

    /// The size in bytes.
    ///
    /// `defaultSuffix` counts for a text without a suffix.
    public static func parse(_ text: String, defaultSuffix: Character = "B") -> Result<UInt64, Failure> {
        var rest = Substring(text)
        while let first = rest.first, first.isASCII, first.isWhitespace { rest.removeFirst() }
        if rest.first == "-" { return negative(rest.dropFirst(), defaultSuffix: defaultSuffix) }
        if rest.first == "+" { rest.removeFirst() }
        return unsigned(rest, defaultSuffix: defaultSuffix)
    }

    /// A number below zero is well-formed, but out of range; `-0` is neither.
    private static func negative(_ rest: Substring, defaultSuffix: Character) -> Result<UInt64, Failure> {
        switch unsigned(rest, defaultSuffix: defaultSuffix) {
        case .success(0), .failure(.malformed): .failure(.malformed)
        case .success, .failure(.outOfRange): .failure(.outOfRange)
        }
    }

    private static func unsigned(_ rest: Substring, defaultSuffix: Character) -> Result<UInt64, Failure> {
        guard let first = rest.first, first.isASCII, first.isNumber || first == "." else {
            return .failure(.malformed)
        }
        if rest.hasPrefix("0x") || rest.hasPrefix("0X") { return hexadecimal(rest.dropFirst(2)) }
        return decimal(rest, defaultSuffix: defaultSuffix)
    }

    private static func hexadecimal(_ digits: Substring) -> Result<UInt64, Failure> {
        guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && $0.isHexDigit }) else {
            return .failure(.malformed)
        }
        return UInt64(digits, radix: 16).map(Result.success) ?? .failure(.outOfRange)
    }

    private static func decimal(_ text: Substring, defaultSuffix: Character) -> Result<UInt64, Failure> {
        let whole = text.prefix { $0.isASCII && $0.isNumber }
        var rest = text.dropFirst(whole.count)
        var fraction = Substring()
        let hasPoint = rest.first == "."
        if hasPoint {
            rest.removeFirst()
            fraction = rest.prefix { $0.isASCII && $0.isNumber }
            rest = rest.dropFirst(fraction.count)
        }
        guard !(whole.isEmpty && fraction.isEmpty) else { return .failure(.malformed) }
        let suffix = rest.first ?? defaultSuffix
        guard rest.count <= 1, let shift = shifts[Character(suffix.lowercased())] else {
            return .failure(.malformed)
        }
        if hasPoint && shift == 0 && fraction.contains(where: { $0 != "0" }) { return .failure(.malformed) }
        return combine(whole: whole, fraction: fraction, shift: shift)
    }

    private static func combine(
        whole: Substring, fraction: Substring, shift: Int
    ) -> Result<UInt64, Failure> {
        guard let units = whole.isEmpty ? 0 : UInt64(whole) else { return .failure(.outOfRange) }
        let (bytes, overflow) = units.multipliedReportingOverflow(by: 1 << UInt64(shift))
        if overflow { return .failure(.outOfRange) }
        guard let part = fraction.isEmpty ? 0 : Double("0." + fraction) else { return .failure(.malformed) }
        let extra = UInt64((part * Double(UInt64(1) << UInt64(shift))).rounded())
        let (sum, tooLarge) = bytes.addingReportingOverflow(extra)
        return tooLarge ? .failure(.outOfRange) : .success(sum)
    }
}

/// Parses whole numbers as C's `strtoull` does with base 0: decimal, `0x` hexadecimal, `0` octal.
public enum CLikeNumber {
    /// The number; `nil` for text that is no number, or one of 2^64 or more.
    public static func unsigned(_ text: String) -> UInt64? {
        if text.hasPrefix("0x") || text.hasPrefix("0X") { return UInt64(text.dropFirst(2), radix: 16) }
        if text.hasPrefix("0"), text.count > 1 { return UInt64(text.dropFirst(), radix: 8) }
        return text.first?.isNumber == true ? UInt64(text) : nil
    }
}
