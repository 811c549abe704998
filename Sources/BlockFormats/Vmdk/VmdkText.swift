/// Text of descriptors, some of which are in old code pages (VMware writes `encoding="windows-1252"`).
///
/// Bytes that are no UTF-8 become characters of a private range and become bytes again, so that lines that
/// mean nothing here survive a change of others.
enum VmdkText {
    /// The scalar of byte 0; nobody uses this end of the last private plane.
    private static let base: UInt32 = 0x10_FF00

    static func decode(_ bytes: some Collection<UInt8>) -> String {
        let bytes = Array(bytes)
        if let text = String(validating: bytes, as: UTF8.self), isPlain(text) { return text }
        var text = String.UnicodeScalarView()
        var place = 0
        while place < bytes.count {
            let length = lengthOfScalar(bytes[place...])
            if length > 0 {
                text.append(
                    contentsOf: String(decoding: bytes[place..<place + length], as: UTF8.self).unicodeScalars)
            } else if let scalar = Unicode.Scalar(base + UInt32(bytes[place])) {
                text.append(scalar)
            }
            place += max(1, length)
        }
        return String(text)
    }

    static func encode(_ text: String) -> [UInt8] {
        if isPlain(text) { return Array(text.utf8) }
        var bytes: [UInt8] = []
        for scalar in text.unicodeScalars {
            if scalar.value >= base {
                bytes.append(UInt8(truncatingIfNeeded: scalar.value))
            } else {
                bytes += Array(String(scalar).utf8)
            }
        }
        return bytes
    }

    /// Whether all of the text was UTF-8.
    static func isPlain(_ text: String) -> Bool { text.unicodeScalars.allSatisfy { $0.value < base } }

    /// How many bytes the first character has; 0 where it is none, or one of those that stand for bytes.
    private static func lengthOfScalar(_ bytes: ArraySlice<UInt8>) -> Int {
        for length in 1...4 where length <= bytes.count {
            guard let text = String(validating: bytes.prefix(length), as: UTF8.self) else { continue }
            return isPlain(text) ? length : 0
        }
        return 0
    }
}
