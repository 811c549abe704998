import BlockCore
import BlockFormats

/// The help texts, made from the tables of options.
enum HelpText {
    private static let column = 34
    private static let width = 96

    /// What `program --help` prints.
    static func program(_ name: String) -> String {
        var text = PlatterProgram.versionLine(name) + "Works on virtual-disk images.\n\n"
        text += "Usage: \(name) [OPTION...] COMMAND ...\n\nOptions:\n"
        text += GlobalOptions.options.map(line).joined()
        text += "\nCommands:\n"
        for (name, command) in CommandList.all { text += row("  \(name)", command.spec.summary) }
        let formats = StandardFormats.all.map { $0.name }.sorted().joined(separator: " ")
        text += "\nSupported formats: \(formats)\n\n"
        if name == "qemu-img" { text += "In short:\n" + synopses() + "\n" }
        return text + "'\(name) COMMAND --help' tells the options of one command.\n"
    }

    /// One line for each command as older releases of qemu-img have it: scripts look there for the options
    /// that they want to use.
    private static func synopses() -> String {
        CommandList.all.map { name, command in
            let options = command.spec.options.filter { $0.refusal == nil }.map { option in
                "[\(option.spellings.first ?? "")\(option.value.map { " \($0)" } ?? "")]"
            }
            let operands = command.spec.operands.split(separator: " ").map {
                $0 == "FILE" ? "filename" : $0.lowercased()
            }
            return ("  " + ([name] + options + operands).joined(separator: " ")) + "\n"
        }.joined()
    }

    /// What `program COMMAND --help` prints.
    static func command(_ spec: CommandSpec, program: String) -> String {
        var text = "\(spec.summary).\n\nUsage: \(spec.title(program)) [OPTION...]"
        text += spec.operands.isEmpty ? "\n" : " \(spec.operands)\n"
        text += "\nOptions:\n" + spec.options.map(line).joined()
        for note in spec.notes { text += "\n" + wrap(note, indent: 0).joined(separator: "\n") + "\n" }
        if !spec.statuses.isEmpty {
            text += "\nExit status:\n"
            for (status, meaning) in spec.statuses { text += row("  \(status)", meaning, column: 8) }
        }
        return text
    }

    /// The left column of an option: `-f, --format FMT`.
    static func names(_ option: OptionSpec) -> String {
        option.spellings.joined(separator: ", ") + (option.value.map { " \($0)" } ?? "")
    }

    private static func line(_ option: OptionSpec) -> String {
        let indent = option.short == nil ? "      " : "  "
        return row(indent + names(option), option.help)
    }

    private static func row(_ left: String, _ right: String, column: Int = column) -> String {
        let lines = wrap(right, indent: column)
        let first = lines.first?.drop { $0 == " " } ?? ""
        let head =
            left.count < column - 1
            ? left.padded(right: column) + first
            : left + "\n" + String(repeating: " ", count: column) + first
        return ([head] + lines.dropFirst()).joined(separator: "\n") + "\n"
    }

    /// Breaks text at spaces into lines that begin with `indent` spaces.
    private static func wrap(_ text: String, indent: Int) -> [String] {
        let margin = String(repeating: " ", count: indent)
        var lines: [String] = []
        var line = ""
        for word in text.split(separator: " ") {
            if !line.isEmpty && indent + line.count + 1 + word.count > width {
                lines.append(margin + line)
                line = ""
            }
            line += (line.isEmpty ? "" : " ") + word
        }
        return line.isEmpty ? lines : lines + [margin + line]
    }
}
