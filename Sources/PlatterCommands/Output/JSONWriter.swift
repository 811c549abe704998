import BlockCore

/// Prints values as JSON with four spaces for each level, one element a line, also for what is empty.
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
            appendLines("[", "]", elements.count, level, to: &text) { index, text in
                append(elements[index], level: level + 1, to: &text)
            }
        case .object(let fields):
            appendLines("{", "}", fields.count, level, to: &text) { index, text in
                text += quoted(fields[index].key) + ": "
                append(fields[index].value, level: level + 1, to: &text)
            }
        }
    }

    private static func appendLines(
        _ open: String, _ close: String, _ count: Int, _ level: Int, to text: inout String,
        _ element: (Int, inout String) -> Void
    ) {
        text += open + "\n"
        for index in 0..<count {
            text += String(repeating: "    ", count: level + 1)
            element(index, &text)
            text += index < count - 1 ? ",\n" : "\n"
        }
        text += String(repeating: "    ", count: level) + close
    }

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

/// How a command's result is printed.
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
    /// The name by which it can be opened again: a file name where that says all, `json:{…}` otherwise.
    var shownName: String { naming.plain ?? "json:" + JSONWriter.line(naming.options) }
}
