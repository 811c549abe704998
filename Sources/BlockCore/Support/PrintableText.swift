/// Makes text of images and file names safe for a terminal and for one line.
public enum PrintableText {
    /// `text` with escapes, such as `\x1b`, `\n` and `\u{202e}`, for characters that could move the cursor,
    /// end the line or turn the direction of writing.
    ///
    /// Other text is unchanged, also bytes that are not UTF-8, except 0x80 to 0x9F: these are control
    /// characters to terminals with 8-bit character sets.
    ///
    /// - Parameter keepsLines: whether to keep line feeds and tabs, for text of several lines.
    /// - Complexity: O(n); text without escapes is not copied.
    public static func shown(_ text: String, keepsLines: Bool = false) -> String {
        guard mayNeedEscapes(text, keepsLines) else { return text }
        var shown = ""
        shown.reserveCapacity(text.utf8.count + 16)
        for scalar in text.unicodeScalars {
            if isHarmless(scalar) || (keepsLines && (scalar == "\n" || scalar == "\t")) {
                shown.unicodeScalars.append(scalar)
            } else {
                shown += escape(scalar)
            }
        }
        return shown
    }

    /// Whether any byte is, or begins, a character that is not harmless.
    private static func mayNeedEscapes(_ text: String, _ keepsLines: Bool) -> Bool {
        text.utf8.contains { byte in
            switch byte {
            case 0x0A, 0x09: !keepsLines
            case 0x00..<0x20, 0x7F: true
            // The first bytes of C1 controls, of U+061C, of U+200B to U+206F, of U+FEFF and U+FFF9, and of
            // scalars that stand for bytes.
            case 0xC2, 0xD8, 0xE2, 0xEF, 0xF3, 0xF4: true
            default: false
            }
        }
    }

    private static func isHarmless(_ scalar: Unicode.Scalar) -> Bool {
        switch RawText.byte(of: scalar).map(UInt32.init) ?? scalar.value {
        case 0x00..<0x20, 0x7F..<0xA0: false
        // Marks, embeddings, overrides and isolates of the direction of writing; separators of lines.
        case 0x061C, 0x200E, 0x200F, 0x2028...0x202E, 0x2066...0x206F: false
        // Characters without a width, which can make one name look like another.
        case 0x200B, 0x2060...0x2065, 0xFEFF, 0xFFF9...0xFFFB, 0xE0000...0xE007F: false
        default: true
        }
    }

    private static func escape(_ scalar: Unicode.Scalar) -> String {
        switch scalar {
        case "\n": return "\\n"
        case "\r": return "\\r"
        case "\t": return "\\t"
        default: break
        }
        let byte = RawText.byte(of: scalar).map(UInt32.init)
        let digits = String(byte ?? scalar.value, radix: 16)
        guard byte != nil || scalar.value < 0x80 else { return "\\u{\(digits)}" }
        return "\\x" + String(repeating: "0", count: 2 - digits.count) + digits
    }
}
