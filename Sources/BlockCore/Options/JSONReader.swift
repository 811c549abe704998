/// Reads the JSON of `json:{...}` file names into dotted keys.
///
/// Limits: 64 KiB of text, 1,024 options, and ``OptionTree/maximumDepth`` levels, whether they are nested or
/// written with dots. Values are strings, numbers, booleans, `null` (an empty text), nested objects and
/// arrays; an array's elements get their index as key, as in `children.0.driver`.
public struct JSONReader {
    private static let maximumBytes = 65536
    private static let maximumOptions = 1024

    private let bytes: [UInt8]
    private var position = 0

    /// The options in `text`, which must be one JSON object.
    ///
    /// - Throws: `invalidArgument` for text that is not JSON; `limit`.
    public static func options(_ text: String) throws(BlockError) -> OptionTree {
        guard text.utf8.count <= maximumBytes else {
            throw BlockError(.limit, "Could not parse the JSON options: too long")
        }
        var reader = JSONReader(bytes: Array(text.utf8))
        var tree = OptionTree()
        reader.skipSpace()
        guard reader.peek == UInt8(ascii: "{") else { throw reader.malformed("expected an object") }
        try reader.value(prefix: "", into: &tree, depth: 0)
        reader.skipSpace()
        guard reader.peek == nil else { throw reader.malformed("unexpected text after the object") }
        return tree
    }

    private init(bytes: [UInt8]) { self.bytes = bytes }

    private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    private func malformed(_ what: String) -> BlockError {
        BlockError(.invalidArgument, "Could not parse the JSON options: \(what) at byte \(position)")
    }

    private mutating func skipSpace() {
        while let byte = peek, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
    }

    private mutating func expect(_ byte: Unicode.Scalar) throws(BlockError) {
        skipSpace()
        guard peek == UInt8(ascii: byte) else { throw malformed("expected '\(byte)'") }
        position += 1
    }

    private mutating func value(
        prefix: String, into tree: inout OptionTree, depth: Int
    ) throws(BlockError) {
        guard depth < OptionTree.maximumDepth, OptionTree.depth(of: prefix) < OptionTree.maximumDepth else {
            throw malformed("too many levels")
        }
        skipSpace()
        switch peek {
        case UInt8(ascii: "{"): try object(prefix: prefix, into: &tree, depth: depth)
        case UInt8(ascii: "["): try array(prefix: prefix, into: &tree, depth: depth)
        case UInt8(ascii: "\""), UInt8(ascii: "'"): tree[prefix] = try string()
        default: tree.setLiteral(prefix, to: try literal())
        }
        guard tree.count <= Self.maximumOptions else { throw malformed("too many options") }
    }

    private mutating func object(
        prefix: String, into tree: inout OptionTree, depth: Int
    ) throws(BlockError) {
        try expect("{")
        skipSpace()
        if peek == UInt8(ascii: "}") {
            position += 1
            return
        }
        while true {
            skipSpace()
            let key = try string()
            try expect(":")
            try value(prefix: prefix.isEmpty ? key : "\(prefix).\(key)", into: &tree, depth: depth + 1)
            skipSpace()
            guard peek == UInt8(ascii: ",") else { break }
            position += 1
        }
        try expect("}")
    }

    private mutating func array(prefix: String, into tree: inout OptionTree, depth: Int) throws(BlockError) {
        try expect("[")
        skipSpace()
        if peek == UInt8(ascii: "]") {
            position += 1
            return
        }
        var index = 0
        while true {
            try value(prefix: "\(prefix).\(index)", into: &tree, depth: depth + 1)
            index += 1
            skipSpace()
            guard peek == UInt8(ascii: ",") else { break }
            position += 1
        }
        try expect("]")
    }

    private mutating func literal() throws(BlockError) -> String {
        let start = position
        while let byte = peek, byte > 0x20, byte != UInt8(ascii: ","), byte != UInt8(ascii: "}"),
            byte != UInt8(ascii: "]")
        { position += 1 }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        switch text {
        case "true": return "on"
        case "false": return "off"
        case "null": return ""
        default:
            guard let first = text.utf8.first, first == UInt8(ascii: "-") || (0x30...0x39).contains(first),
                Double(text) != nil
            else { throw malformed("unexpected '\(text)'") }
            return text
        }
    }

    private mutating func string() throws(BlockError) -> String {
        guard peek == UInt8(ascii: "\"") || peek == UInt8(ascii: "'") else {
            throw malformed("expected a string")
        }
        let quote = bytes[position]
        position += 1
        var text: [UInt8] = []
        while let byte = peek, byte != quote {
            position += 1
            if byte == UInt8(ascii: "\\") { text += try escape() } else { text.append(byte) }
        }
        guard peek == quote else { throw malformed("unterminated string") }
        position += 1
        // To the system, a name ends at a zero byte.
        guard !text.contains(0) else { throw malformed("zero byte in a string") }
        return String(decoding: text, as: UTF8.self)
    }

    private mutating func escape() throws(BlockError) -> [UInt8] {
        guard let byte = peek else { throw malformed("unterminated string") }
        position += 1
        switch Unicode.Scalar(byte) {
        case "n": return [0x0A]
        case "t": return [0x09]
        case "r": return [0x0D]
        case "b": return [0x08]
        case "f": return [0x0C]
        case "u": return try unicodeEscape()
        case "\"", "\\", "/", "'": return [byte]
        default: throw malformed("unknown escape")
        }
    }

    private mutating func hexUnit() throws(BlockError) -> UInt16 {
        guard bytes.count - position >= 4,
            let unit = UInt16(String(decoding: bytes[position..<position + 4], as: UTF8.self), radix: 16)
        else { throw malformed("bad \\u escape") }
        position += 4
        return unit
    }

    private mutating func unicodeEscape() throws(BlockError) -> [UInt8] {
        var units = [try hexUnit()]
        if UTF16.isLeadSurrogate(units[0]), bytes.count - position >= 6, bytes[position] == 0x5C,
            bytes[position + 1] == UInt8(ascii: "u")
        {
            position += 2
            units.append(try hexUnit())
        }
        // A scalar that ``RawText`` uses for a byte means itself in JSON.
        return Array(String(raw: String(decoding: units, as: UTF16.self).utf8).utf8)
    }
}
