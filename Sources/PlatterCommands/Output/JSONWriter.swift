import BlockCore

/// Writes values as JSON as qemu-img does: four spaces for each level, one element a line, and brackets on
/// two lines also when empty.
enum JSONWriter {
    /// The text of `value`, with a line feed at its end.
    static func text(_ value: InfoValue) -> String {
        var text = ""
        append(value, level: 0, to: &text)
        return text + "\n"
    }

    private static func append(_ value: InfoValue, level: Int, to text: inout String) {
        switch value {
        case .text(let string): text += quoted(string)
        case .number(let number): text += String(number)
        case .flag(let flag): text += flag ? "true" : "false"
        case .list(let elements):
            text += "["
            for (index, element) in elements.enumerated() {
                beginLine(index, level + 1, in: &text)
                append(element, level: level + 1, to: &text)
            }
            endLines(level, in: &text)
            text += "]"
        case .object(let fields):
            text += "{"
            for (index, field) in fields.enumerated() {
                beginLine(index, level + 1, in: &text)
                text += quoted(field.key) + ": "
                append(field.value, level: level + 1, to: &text)
            }
            endLines(level, in: &text)
            text += "}"
        }
    }

    /// Begins the line of an element, behind a comma unless it is the first one.
    private static func beginLine(_ index: Int, _ level: Int, in text: inout String) {
        text += (index > 0 ? ",\n" : "\n") + indent(level)
    }

    /// Begins the line of the closing bracket.
    private static func endLines(_ level: Int, in text: inout String) { text += "\n" + indent(level) }

    private static func indent(_ level: Int) -> String { String(repeating: "    ", count: level) }

    /// A JSON string in ASCII; other characters as `\uXXXX`. JSON has no bytes that are not UTF-8: U+FFFD
    /// stands in their place, as in qemu-img's output.
    static func quoted(_ string: String) -> String {
        var text = "\""
        for unit in (string.isPlain ? string : String(decoding: string.rawBytes, as: UTF8.self)).utf16 {
            switch unit {
            case 0x22: text += "\\\""
            case 0x5C: text += "\\\\"
            case 0x08: text += "\\b"
            case 0x0C: text += "\\f"
            case 0x0A: text += "\\n"
            case 0x0D: text += "\\r"
            case 0x09: text += "\\t"
            case 0x20..<0x7F: text.unicodeScalars.append(Unicode.Scalar(UInt8(unit)))
            default:
                let digits = String(unit, radix: 16, uppercase: true)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            }
        }
        return text + "\""
    }
}

/// The form in which a command prints its result.
enum OutputFormat {
    case human
    case json

    /// The value of `--output`.
    init(option text: String?) throws(CommandFailure) {
        switch text {
        case nil, "human": self = .human
        case "json": self = .json
        case let other?: throw .usage("--output expects 'human' or 'json', not '\(other)'")
        }
    }
}

extension JSONWriter {
    /// `value` on one line, as in a `json:` name.
    static func line(_ value: InfoValue) -> String {
        switch value {
        case .text(let string): quoted(string)
        case .number(let number): String(number)
        case .flag(let flag): flag ? "true" : "false"
        case .list(let elements): "[" + elements.map(line).joined(separator: ", ") + "]"
        case .object(let fields):
            "{" + fields.map { "\(quoted($0.key)): \(line($0.value))" }.joined(separator: ", ") + "}"
        }
    }
}

extension BlockNode {
    /// The name by which the node can be opened again: a file name where that is enough, else `json:{…}`.
    var shownName: String { naming.plain ?? "json:" + JSONWriter.line(naming.options) }
}
