import BlockCore

/// What stands before the subcommand.
struct GlobalOptions {
    enum Outcome {
        /// Print this and end.
        case text(String)
        case command(String, arguments: [String])
    }

    /// Which files the images may have opened.
    private(set) var policy: OpenPolicy

    /// - Parameter program: the name by which the program was called.
    /// - Throws: for a policy in the environment that there is not.
    init(program: String) throws(CommandFailure) { policy = try PolicyChoice.initial(program: program) }

    static let options = [
        PolicyChoice.option,
        OptionSpec(
            "T", "trace", "SPEC", "Trace events of QEMU (refused: there are none here)",
            refusal: "there are no trace events; use --open-policy, -p or the library's statistics"),
        OptionSpec(nil, "completions", "bash|zsh|fish", "Print the completion script for that shell"),
        OptionSpec("V", "version", nil, "Show the version"),
        OptionSpec("h", "help", nil, "Show this text"),
    ]

    private static let spec: CommandSpec = {
        var spec = CommandSpec("", "", operands: "", options: [])
        spec.options = options
        return spec
    }()

    /// Takes the options before the first word that is none.
    mutating func parse(_ arguments: [String], program: String) throws(CommandFailure) -> Outcome {
        let normalizer = ArgumentNormalizer(spec: Self.spec, program: program)
        var rest = arguments[...]
        while let argument = rest.first, argument.hasPrefix("-"), argument.count > 1 {
            rest.removeFirst()
            if argument == "--" { break }
            var own = [argument]
            if takesNext(argument), let value = rest.popFirst() { own.append(value) }
            switch try normalise(own, normalizer) {
            case .help: return .text(HelpText.program(program))
            case .arguments(let normal):
                if normal.contains("--version") {
                    return .text(PlatterProgram.versionLine(program))
                }
                if let text = try completions(normal, program) { return .text(text) }
                for option in normal { policy = try PolicyChoice.policy(of: option) ?? policy }
            }
        }
        guard let command = rest.popFirst() else { throw .usage("Not enough arguments") }
        return .command(command, arguments: Array(rest))
    }

    /// Without a subcommand, getopt's messages have the program's name alone.
    private func normalise(
        _ arguments: [String], _ normalizer: ArgumentNormalizer
    ) throws(CommandFailure) -> ArgumentNormalizer.Normal {
        do throws(CommandFailure) { return try normalizer.normalise(arguments) } catch {
            var failure = error
            failure.namesCommand = false
            failure.details += Self.aliasHint(arguments, normalizer.program).map { [$0] } ?? []
            throw failure
        }
    }

    /// Where a command with a program name of its own takes the option: a caller that resolves the link
    /// `qemu-io` before it runs the program loses that name.
    private static func aliasHint(_ arguments: [String], _ program: String) -> String? {
        guard let argument = arguments.first, argument.hasPrefix("-") else { return nil }
        let name = argument.drop { $0 == "-" }.prefix { $0 != "=" }
        let isLong = argument.hasPrefix("--")
        let taker = CommandList.all.first { entry in
            guard entry.command.spec.alias != nil else { return false }
            return entry.command.spec.options.contains { option in
                isLong ? option.long == String(name) : name.first.map(option.hasShort) == true
            }
        }
        guard let taker, let alias = taker.command.spec.alias else { return nil }
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
    private func completions(_ options: [String], _ program: String) throws(CommandFailure) -> String? {
        guard let option = options.first(where: { $0.hasPrefix("--completions=") }) else { return nil }
        guard let shell = CompletionScript.Shell(rawValue: String(option.dropFirst("--completions=".count)))
        else { throw .usage("--completions expects 'bash', 'zsh' or 'fish'") }
        return CompletionScript.text(shell, program: program)
    }
}
