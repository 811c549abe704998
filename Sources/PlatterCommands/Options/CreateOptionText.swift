import BlockCore

/// The values of `-o`, given once or several times.
struct CreateOptionText {
    private let lists: [String]

    /// No options.
    init() { lists = [] }

    /// - Throws: for an empty list, or one with an empty item at either end.
    init(_ lists: [String]) throws(CommandFailure) {
        for list in lists where !Self.isWellFormed(list) {
            throw CommandFailure("Invalid option list: \(list)")
        }
        self.lists = lists
    }

    /// Whether one of the lists has the item `help` or `?`.
    var asksForHelp: Bool { lists.contains { OptionList.asksForHelp($0) } }

    /// All pairs in the order given.
    func pairs() throws(BlockError) -> [(key: String, value: String)] {
        var pairs: [(key: String, value: String)] = []
        for list in lists { pairs += try OptionList.parse(list) }
        return pairs
    }

    /// Sets all pairs in `options`.
    func apply(to options: inout CreateOptions) throws(BlockError) {
        for (key, value) in try pairs() { try options.set(name: key, to: value) }
    }

    /// The value of `key` when it is given.
    func value(of key: CreateOptionKey) throws(BlockError) -> String? {
        try pairs().last { $0.key == key.rawValue }?.value
    }

    private static func isWellFormed(_ list: String) -> Bool {
        guard !list.isEmpty, !list.hasPrefix(",") else { return false }
        let trailing = list.reversed().prefix { $0 == "," }.count
        return trailing % 2 == 0
    }
}

/// The texts about create options.
enum CreateOptionReport {
    private static let column = 24

    /// The line that announces what is created.
    static func formattingLine(_ filename: String, format: String, _ options: CreateOptions) -> String {
        let values = options.shown.map { " \($0.key.rawValue)=\(doublingCommas($0.value))" }
        return PrintableText.shown("Formatting '\(filename)', fmt=\(format)\(values.joined())")
    }

    /// What `-o help` prints: the format's options, with those of the protocol when a file is named.
    static func help(_ format: String, declared: [CreateOption], forFile: Bool) -> String {
        var text = list(
            title: forFile ? "Supported options:" : "Supported \(format) options:", declared: declared)
        if !forFile {
            text += "\nThe protocol level may support further options.\n"
            text += "Specify the target filename to include those options.\n"
        }
        return text
    }

    /// A title, and one line for each option, sorted by name.
    static func list(title: String, declared: [CreateOption]) -> String {
        var text = title + "\n"
        for option in declared.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            let name = "  \(option.key.rawValue)=<\(typeName(option.type))>"
            text += name.padded(right: column) + " - \(option.help)\n"
        }
        return text
    }

    private static func typeName(_ type: CreateOptionType) -> String {
        switch type {
        case .string: "str"
        case .bool: "bool (on/off)"
        case .number: "num"
        case .size: "size"
        }
    }

    private static func doublingCommas(_ text: String) -> String {
        text.contains(",")
            ? text.split(separator: ",", omittingEmptySubsequences: false).joined(separator: ",,") : text
    }
}

extension CommandContext {
    /// The text of `-o help` for a format, and for its file where one is named.
    func createOptionHelp(format: String, filename: String?) throws(BlockError) -> String {
        if let filename {
            let options = try opener.createOptions(format: format, filename: filename)
            return CreateOptionReport.help(format, declared: options.declared, forFile: true)
        }
        if registry.format(named: format) == nil, let entry = registry.protocolEntry(named: format) {
            return CreateOptionReport.help(format, declared: entry.createOptions, forFile: false)
        }
        let declared = try opener.creatableFormat(format).createOptions
        return CreateOptionReport.help(format, declared: declared, forFile: false)
    }
}
