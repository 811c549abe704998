import BlockCore

/// A property list in Apple's XML form, with the types that disk images need.
indirect enum PropertyList {
    case dictionary([(key: String, value: PropertyList)])
    case array([PropertyList])
    case string(String)
    /// Base64 text at this range of the document.
    case data(Range<Int>)
    /// A number, a date or a truth value, which is not parsed.
    case other

    /// The first value for a key; `nil` also when this is not a dictionary.
    subscript(key: String) -> PropertyList? {
        guard case .dictionary(let entries) = self else { return nil }
        return entries.first { $0.key == key }?.value
    }

    /// Parses a whole document. XML that property lists never contain is refused: entity declarations,
    /// processing instructions, CDATA sections.
    ///
    /// - Throws: `corrupt`; `limit` when it is too deep or has too many values.
    static func parse(_ text: [UInt8]) throws(BlockError) -> PropertyList {
        var reader = PropertyListReader(text)
        return try reader.document()
    }
}

/// Reads XML sequentially. A value; offsets are in bytes.
private struct PropertyListReader {
    static let maximumDepth = 32
    static let maximumValues = 1 << 17

    private enum Tag {
        case opening(String)
        /// `<true/>`
        case empty(String)
        case closing(String)
    }

    private let text: [UInt8]
    private var position = 0
    private var values = 0

    init(_ text: [UInt8]) { self.text = text }

    mutating func document() throws(BlockError) -> PropertyList {
        skip("\u{FEFF}")
        if skip("<?xml") { try pass("?>") }
        try skipMisc()
        if skip("<!DOCTYPE") { try passDocumentType() }
        guard case .opening("plist") = try tag(), let value = try value(depth: 0, until: nil) else {
            throw damaged("it does not begin with <plist> and a value")
        }
        try expectEnd(of: "plist")
        try skipMisc()
        while position < text.count, text[position] == 0 { position += 1 }
        guard position == text.count else { throw damaged("something follows its end") }
        return value
    }

    // MARK: Values

    /// The next value; `nil` when `container` ends instead.
    private mutating func value(depth: Int, until container: String?) throws(BlockError) -> PropertyList? {
        let tag = try tag()
        switch tag {
        case .closing(let name):
            guard name == container else { throw damaged("</\(name)> ends what did not begin") }
            return nil
        case .empty(let name): return try count(emptyValue(name))
        case .opening(let name): return try count(fullValue(name, depth: depth))
        }
    }

    private mutating func count(_ value: PropertyList) throws(BlockError) -> PropertyList {
        values += 1
        guard values <= Self.maximumValues else {
            throw BlockError(.limit, "The property list has too many values")
        }
        return value
    }

    private func emptyValue(_ name: String) throws(BlockError) -> PropertyList {
        switch name {
        case "dict": return .dictionary([])
        case "array": return .array([])
        case "string": return .string("")
        case "data": return .data(position..<position)
        case "true", "false": return .other
        default: throw damaged("<\(name)/> is no value")
        }
    }

    private mutating func fullValue(_ name: String, depth: Int) throws(BlockError) -> PropertyList {
        guard depth < Self.maximumDepth else {
            throw BlockError(.limit, "The property list is nested too deeply")
        }
        switch name {
        case "dict": return .dictionary(try entries(depth: depth + 1))
        case "array":
            var items: [PropertyList] = []
            while let item = try value(depth: depth + 1, until: "array") { items.append(item) }
            return .array(items)
        case "string": return .string(try string(in: "string"))
        case "data":
            let range = textRange()
            try expectEnd(of: "data")
            return .data(range)
        case "integer", "real", "date", "true", "false":
            _ = textRange()
            try expectEnd(of: name)
            return .other
        default: throw damaged("<\(name)> is no value")
        }
    }

    private mutating func entries(depth: Int) throws(BlockError) -> [(key: String, value: PropertyList)] {
        var entries: [(key: String, value: PropertyList)] = []
        while true {
            switch try tag() {
            case .closing("dict"): return entries
            case .opening("key"):
                let key = try string(in: "key")
                guard let value = try value(depth: depth, until: nil) else { return entries }
                entries.append((key, value))
            default: throw damaged("a dictionary has something else than keys")
            }
        }
    }

    private mutating func expectEnd(of name: String) throws(BlockError) {
        guard case .closing(let found) = try tag(), found == name else {
            throw damaged("<\(name)> does not end")
        }
    }

    // MARK: Text

    /// The text up to the next tag.
    private mutating func textRange() -> Range<Int> {
        let start = position
        while position < text.count, text[position] != UInt8(ascii: "<") { position += 1 }
        return start..<position
    }

    private mutating func string(in element: String) throws(BlockError) -> String {
        let range = textRange()
        try expectEnd(of: element)
        var result = ""
        var rest = text[range]
        while let start = rest.firstIndex(of: UInt8(ascii: "&")) {
            result += String(decoding: rest[..<start], as: UTF8.self)
            // The longest references are like &#x10FFFF;.
            guard let end = rest[start...].prefix(12).firstIndex(of: UInt8(ascii: ";")) else {
                throw damaged("a character reference does not end")
            }
            result.unicodeScalars.append(
                try scalar(String(decoding: rest[(start + 1)..<end], as: UTF8.self)))
            rest = rest[(end + 1)...]
        }
        return result + String(decoding: rest, as: UTF8.self)
    }

    private func scalar(_ reference: String) throws(BlockError) -> Unicode.Scalar {
        let known: [String: Unicode.Scalar] = ["amp": "&", "lt": "<", "gt": ">", "quot": "\"", "apos": "'"]
        if let scalar = known[reference] { return scalar }
        if reference.hasPrefix("#x"), let code = UInt32(reference.dropFirst(2), radix: 16),
            let scalar = Unicode.Scalar(code)
        {
            return scalar
        }
        if reference.hasPrefix("#"), let code = UInt32(reference.dropFirst(1)),
            let scalar = Unicode.Scalar(code)
        {
            return scalar
        }
        throw damaged("the character reference &\(reference); is not known")
    }

    // MARK: Markup

    /// The next tag; only white space and comments may come before it.
    private mutating func tag() throws(BlockError) -> Tag {
        try skipMisc()
        guard skip("<") else { throw damaged("a tag is missing") }
        let isClosing = skip("/")
        let start = position
        while position < text.count, Self.isNameByte(text[position]), position - start < 32 { position += 1 }
        let name = String(decoding: text[start..<position], as: UTF8.self)
        guard !name.isEmpty else { throw damaged("a tag has no name") }
        // Attributes are skipped.
        while position < text.count, ![0x3C, 0x3E].contains(text[position]) { position += 1 }
        guard skip(">") else { throw damaged("the tag <\(name) does not end") }
        if isClosing { return .closing(name) }
        return text[position - 2] == UInt8(ascii: "/") ? .empty(name) : .opening(name)
    }

    private static func isNameByte(_ byte: UInt8) -> Bool { 0x61...0x7A ~= byte || 0x41...0x5A ~= byte }

    private mutating func skipMisc() throws(BlockError) {
        while position < text.count {
            if [0x20, 0x09, 0x0A, 0x0D].contains(text[position]) {
                position += 1
            } else if skip("<!--") {
                try pass("-->")
            } else {
                return
            }
        }
    }

    /// Skips a document type. Its external definition is not read; one with an internal definition is
    /// refused.
    private mutating func passDocumentType() throws(BlockError) {
        while position < text.count, text[position] != UInt8(ascii: ">") {
            if text[position] == UInt8(ascii: "[") { throw damaged("it defines entities") }
            position += 1
        }
        guard skip(">") else { throw damaged("the document type does not end") }
        try skipMisc()
    }

    /// Advances behind the next `end`.
    private mutating func pass(_ end: String) throws(BlockError) {
        while position < text.count {
            if skip(end) { return }
            position += 1
        }
        throw damaged("'\(end)' is missing")
    }

    /// Advances behind `word` if it is next.
    @discardableResult
    private mutating func skip(_ word: String) -> Bool {
        let wanted = word.utf8
        guard text.count - position >= wanted.count, text[position...].starts(with: wanted) else {
            return false
        }
        position += wanted.count
        return true
    }

    private func damaged(_ what: String) -> BlockError {
        BlockError(.corrupt, "The property list is damaged near byte \(position): \(what)")
    }
}
