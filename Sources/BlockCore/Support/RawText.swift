/// Text for bytes that need not be UTF-8: file names, and names inside images.
///
/// A byte that is part of no UTF-8 character becomes a private scalar, from U+10FF80 for 0x80 to U+10FFFF for
/// 0xFF; for the system, an image or a terminal that scalar becomes the byte again. The UTF-8 of such a
/// scalar itself becomes four of them, one for each byte, so that different names stay different texts.
extension String {
    /// The text for `bytes`: its ``rawBytes`` are the same bytes.
    ///
    /// - Complexity: O(n).
    public init(raw bytes: some Collection<UInt8>) {
        if let text = String(validating: bytes, as: UTF8.self), text.isPlain {
            self = text
        } else {
            self = RawText.decode(Array(bytes))
        }
    }

    /// The text for the bytes of a C string.
    public init(rawCString start: UnsafePointer<CChar>) {
        var count = 0
        while start[count] != 0 { count += 1 }
        self.init(raw: UnsafeBufferPointer(start: start, count: count).map { UInt8(bitPattern: $0) })
    }

    /// The bytes of this text, with those of private scalars restored.
    public var rawBytes: [UInt8] { isPlain ? Array(utf8) : RawText.encode(self) }

    /// The same with a zero byte at the end, for system calls.
    public var hostPath: [CChar] { rawBytes.map { CChar(bitPattern: $0) } + [0] }

    /// Whether no scalar of the text means a byte.
    public var isPlain: Bool {
        // All of these scalars begin with this byte in UTF-8; hardly any other does.
        !utf8.contains(0xF4) || !unicodeScalars.contains { RawText.byte(of: $0) != nil }
    }

    /// Whether both are the same name, byte for byte.
    ///
    /// `==` compares characters: an accented letter equals a letter with a combining accent, but these are
    /// two names to the system.
    public func isSameName(as other: String) -> Bool { utf8.elementsEqual(other.utf8) }
}

/// The private scalars for bytes.
public enum RawText {
    /// The scalar of a byte is its value plus this: the end of the last private plane, which is unused.
    private static let base: UInt32 = 0x10_FF00

    /// The byte of a private scalar; `nil` for other scalars.
    public static func byte(of scalar: Unicode.Scalar) -> UInt8? {
        scalar.value >= base + 0x80 ? UInt8(truncatingIfNeeded: scalar.value) : nil
    }

    fileprivate static func decode(_ bytes: [UInt8]) -> String {
        var text = String.UnicodeScalarView()
        var place = 0
        while place < bytes.count {
            if let scalar = character(bytes[place...]) {
                text.append(scalar)
                place += UTF8.width(scalar)
            } else {
                if let scalar = Unicode.Scalar(base + UInt32(bytes[place])) { text.append(scalar) }
                place += 1
            }
        }
        return String(text)
    }

    fileprivate static func encode(_ text: String) -> [UInt8] {
        var bytes: [UInt8] = []
        for scalar in text.unicodeScalars {
            if let byte = byte(of: scalar) {
                bytes.append(byte)
            } else if let encoded = UTF8.encode(scalar) {
                bytes += encoded
            }
        }
        return bytes
    }

    /// The first scalar; `nil` when the bytes are not UTF-8, or are that of a private scalar for a byte.
    private static func character(_ bytes: ArraySlice<UInt8>) -> Unicode.Scalar? {
        var decoder = Unicode.UTF8()
        var iterator = bytes.prefix(4).makeIterator()
        guard case .scalarValue(let scalar) = decoder.decode(&iterator) else { return nil }
        return byte(of: scalar) == nil ? scalar : nil
    }
}
