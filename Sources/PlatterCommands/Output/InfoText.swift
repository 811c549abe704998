import BlockCore

/// Prints pieces of information as indented lines.
enum InfoText {
    /// One line for each field, or several for lists and nested fields. Dashes in names become spaces.
    static func fields(_ fields: [InfoField], indent: Int) -> String {
        var text = ""
        for field in fields {
            let name = PrintableText.shown(String(field.key.map { $0 == "-" ? " " : $0 }))
            text += line(name, field.value, indent)
        }
        return text
    }

    private static func line(_ name: String, _ value: InfoValue, _ indent: Int) -> String {
        let head = String(repeating: " ", count: indent) + name + ":"
        switch value {
        case .text(let text): return "\(head) \(PrintableText.shown(text))\n"
        case .number(let number): return "\(head) \(number)\n"
        case .flag(let flag): return "\(head) \(flag)\n"
        case .object(let nested): return "\(head)\n" + fields(nested, indent: indent + 4)
        case .list(let elements):
            let lines = elements.enumerated().map { line("[\($0)]", $1, indent + 4) }
            return "\(head)\n" + lines.joined()
        }
    }
}
