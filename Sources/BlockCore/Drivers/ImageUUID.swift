/// A UUID in an image (RFC 9562), as 16 bytes in the order of its text.
public struct ImageUUID: Sendable, Equatable {
    /// The 16 bytes, in the order of the text.
    public var bytes: [UInt8]

    /// - Parameter bytes: 16 bytes; missing ones are zero, and further ones are left out.
    public init(bytes: [UInt8]) { self.bytes = Array((bytes + [UInt8](repeating: 0, count: 16)).prefix(16)) }

    /// Reads the layout of Microsoft and VirtualBox, whose first three fields are little-endian.
    public init(mixedEndian bytes: [UInt8]) {
        self.init(bytes: ImageUUID(bytes: bytes).mixedEndian)
    }

    /// Reads ``text``; `nil` for text that is no UUID.
    public init?(text: String) {
        let digits = Array(text.utf8)
        guard digits.count == 36, [8, 13, 18, 23].allSatisfy({ digits[$0] == UInt8(ascii: "-") }) else {
            return nil
        }
        let hexadecimal = digits.filter { $0 != UInt8(ascii: "-") }
        guard hexadecimal.count == 32 else { return nil }
        var bytes: [UInt8] = []
        for start in stride(from: 0, to: 32, by: 2) {
            let pair = String(decoding: hexadecimal[start..<start + 2], as: UTF8.self)
            guard pair.utf8.first != UInt8(ascii: "+"), let byte = UInt8(pair, radix: 16) else { return nil }
            bytes.append(byte)
        }
        self.init(bytes: bytes)
    }

    /// The bytes in the layout whose first three fields are little-endian.
    public var mixedEndian: [UInt8] {
        [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map { bytes[$0] }
    }

    /// A random UUID (version 4); with a `seed`, always the same one for the same seed.
    public static func make(seed: String?) -> ImageUUID {
        var words: [UInt64]
        if let seed {
            words = [hash(seed, 0xCBF2_9CE4_8422_2325), hash(seed, 0x8422_2325_CBF2_9CE4)]
        } else {
            words = [.random(in: 0 ... .max), .random(in: 0 ... .max)]
        }
        var bytes: [UInt8] = []
        for word in words {
            for shift in stride(from: UInt64(56), through: 0, by: -8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        return ImageUUID(bytes: bytes)
    }

    /// A random UUID; with a `sourceDate`, one derived from it, the file's name and `purpose`.
    static func make(for purpose: String, in filename: String, sourceDate: Int?) -> ImageUUID {
        let name = FileNames.components(filename).last ?? ""
        return make(seed: sourceDate.map { "\($0) \(name) \(purpose)" })
    }

    /// FNV-1a, with the finaliser of SplitMix64.
    private static func hash(_ text: String, _ start: UInt64) -> UInt64 {
        var value = start
        for byte in text.utf8 { value = (value ^ UInt64(byte)) &* 0x100_0000_01B3 }
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }

    /// The text, such as `01234567-89ab-cdef-0123-456789abcdef`.
    public var text: String {
        var text = ""
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text += "-" }
            text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return text
    }
}
