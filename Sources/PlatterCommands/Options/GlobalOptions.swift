import BlockCore

/// The options before the subcommand.
struct GlobalOptions {
    enum Outcome {
        /// The text to print, after which the program ends.
        case text(String)
        case command(String, arguments: [String])
    }

    /// The policy that decides which files images may have opened.
    private(set) var policy: OpenPolicy

    /// - Parameter program: the name by which the program was called.
    /// - Throws: for an unknown policy in the environment.
    init(program: String) throws(CommandFailure) { policy = try PolicyChoice.initial(program: program) }

    /// The values of the options that one word of the command line gave.
    private struct Values {
        let policy: String?
        let completions: String?
        let version: Bool

        init(_ options: inout OptionReader) {
            policy = options.openPolicy()
            options.refuse(
                "T", "trace", "SPEC", "Trace events of QEMU (refused: there are none here)",
                because: "there are no trace events; use --open-policy, -p or the library's statistics")
            completions = options.value(
                nil, "completions", "bash|zsh|fish", "Print the completion script for that shell")
            version = options.version()
            options.help()
        }
    }

    /// The options in the order of the help text.
    static let options: [OptionSpec] = {
        var reader = OptionReader()
        _ = Values(&reader)
        return reader.table
    }()

    /// Parses the options before the first word that is none, which is the subcommand.
    mutating func parse(_ arguments: [String], program: String) throws(CommandFailure) -> Outcome {
        var rest = arguments[...]
        while let argument = rest.first, argument.utf8.first == UInt8(ascii: "-"), argument.utf8.count > 1 {
            rest.removeFirst()
            if argument == "--" { break }
            var own = [argument]
            if takesNext(argument), let value = rest.popFirst() { own.append(value) }
            let parsed = try parse(own, program)
            if parsed.asksForHelp { return .text(HelpText.program(program)) }
            var reader = OptionReader(parsed)
            let values = Values(&reader)
            if values.version { return .text(PlatterProgram.versionLine(program)) }
            if let shell = values.completions { return .text(try completions(for: shell, program)) }
            if let name = values.policy { policy = try PolicyChoice.policy(named: name) }
        }
        guard let command = rest.popFirst() else { throw .usage("Not enough arguments") }
        return .command(command, arguments: Array(rest))
    }

    /// Without a subcommand, getopt's messages have the program's name alone.
    private func parse(
        _ arguments: [String], _ program: String
    ) throws(CommandFailure) -> ParsedArguments {
        do throws(CommandFailure) {
            return try CommandLineParser(options: Self.options).parse(arguments)
        } catch {
            var failure = error
            failure.namesCommand = false
            failure.details += Self.aliasHint(arguments, program).map { [$0] } ?? []
            throw failure
        }
    }

    /// A hint at the command with a program name of its own that has this option: a caller that resolves the
    /// link `qemu-io` before it runs the program loses that name.
    private static func aliasHint(_ arguments: [String], _ program: String) -> String? {
        guard let argument = arguments.first, argument.hasPrefix("-") else { return nil }
        let name = argument.drop { $0 == "-" }.prefix { $0 != "=" }
        let isLong = argument.hasPrefix("--")
        let taker = CommandList.all.first { entry in
            guard entry.command.alias != nil else { return false }
            return entry.command.spec.options.contains { option in
                isLong ? option.long == String(name) : name.first.map(option.hasShort) == true
            }
        }
        guard let taker, let alias = taker.command.alias else { return nil }
        let command = "\(program) \(taker.name)"
        return "'\(argument)' is an option of '\(command)', which a link named \(alias) stands for."
    }

    /// Whether the option's value is the next word.
    private func takesNext(_ argument: String) -> Bool {
        guard argument.hasPrefix("--"), !argument.contains("=") else { return argument == "-T" }
        let name = argument.dropFirst(2)
        return Self.options.contains { $0.value != nil && $0.long?.hasPrefix(name) == true }
    }

    /// The script that `--completions` asks for.
    private func completions(for name: String, _ program: String) throws(CommandFailure) -> String {
        guard let shell = CompletionScript.Shell(rawValue: name) else {
            throw .usage("--completions expects 'bash', 'zsh' or 'fish'")
        }
        return CompletionScript.text(shell, program: program)
    }
}
