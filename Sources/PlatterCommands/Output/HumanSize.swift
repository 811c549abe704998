#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Numbers in the form for people.
enum HumanSize {
    private static let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]

    /// Three significant digits and a binary unit: `64 MiB`, `3.27 MiB`, `0 B`. From 1000 on the next unit is
    /// used.
    static func text(_ bytes: Int) -> String {
        var unit = 0
        var limit = 1000.0
        while unit < units.count - 1, Double(bytes) >= limit {
            unit += 1
            limit *= 1024
        }
        let scaled = Double(bytes) / Double(sign: .plus, exponent: unit * 10, significand: 1)
        return threeDigits(scaled) + " \(units[unit])B"
    }

    /// The same text as `%.3g`, without the cost of C's variable arguments for most numbers.
    static func threeDigits(_ value: Double) -> String {
        guard value >= 1, value < 999 else { return formatted("%.3g", value) }
        let perUnit = value < 10 ? 100 : value < 100 ? 10 : 1
        let product = value * Double(perUnit)
        // A product that is not exact might be rounded otherwise than in C.
        guard (-product).addingProduct(value, Double(perUnit)) == 0 else { return formatted("%.3g", value) }
        let hundredths = Int(product.rounded(.toNearestOrEven)) * (100 / perUnit)
        var digits = String(hundredths % 100 + 100).dropFirst()
        while digits.last == "0" { digits.removeLast() }
        return String(hundredths / 100) + (digits.isEmpty ? "" : "." + digits)
    }

    /// A percentage with two digits after the point.
    static func percent(_ value: Double) -> String { formatted("%.2f", value) }

    /// The text that C's `printf` makes of one number.
    static func formatted(_ format: String, _ value: Double) -> String {
        let buffer = UnsafeMutableBufferPointer<CChar>.allocate(capacity: 64)
        defer { buffer.deallocate() }
        let count = withVaList([value]) { vsnprintf(buffer.baseAddress, buffer.count, format, $0) }
        let length = max(0, min(Int(count), buffer.count - 1))
        return String(decoding: buffer[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension String {
    /// Right-aligned in `width` columns.
    func padded(left width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }
    /// Left-aligned in `width` columns.
    func padded(right width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
}
