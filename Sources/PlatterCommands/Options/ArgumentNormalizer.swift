/// Turns a command line in the habits of getopt_long into one that swift-argument-parser takes.
///
/// Options may follow operands and be clustered (`-pqfraw`), long names may be shortened as long as they are
/// unique, `--` ends the options. The result has `--name=value` and `--name` with the table's own names
/// first, then `--`, then the operands.
struct ArgumentNormalizer {
    enum Normal: Equatable {
        /// The help text is wanted.
        case help
        case arguments([String])
    }

    let spec: CommandSpec
    let program: String

    init(spec: CommandSpec, program: String) {
        self.spec = spec
        self.program = program
    }

    /// - Throws: what getopt would print.
    func normalise(_ arguments: [String]) throws(CommandFailure) -> Normal {
        var options: [String] = []
        var operands: [String] = []
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            if argument == "--" {
                operands += rest
                break
            }
            let taken: [String]?
            if argument.hasPrefix("--") {
                taken = try long(argument.dropFirst(2), &rest)
            } else if argument.hasPrefix("-") && argument.count > 1 && !isNegativeOperand(argument) {
                taken = try cluster(argument.dropFirst(), &rest)
            } else {
                operands.append(argument)
                continue
            }
            guard let taken else { return .help }
            options += taken
        }
        return .arguments(options + ["--"] + operands)
    }

    private func isNegativeOperand(_ argument: String) -> Bool {
        spec.takesNegativeOperands && argument.dropFirst().first?.isNumber == true
    }

    /// The normal form of `--text`, or `nil` for help.
    private func long(_ text: Substring, _ rest: inout ArraySlice<String>) throws(CommandFailure) -> [String]?
    {
        let name = text.prefix { $0 != "=" }
        let option = try find(name, in: text)
        let long = option.long ?? ""
        if name.count < text.count {
            guard option.value != nil else { throw misuse("option '--\(long)' doesn't allow an argument") }
            return try accept(option, String(text.dropFirst(name.count + 1)))
        }
        if option.value == nil { return try accept(option, nil) }
        guard let value = rest.popFirst() else { throw misuse("option '--\(long)' requires an argument") }
        return try accept(option, value)
    }

    /// The option with that name, or the only one whose name begins with it.
    private func find(_ name: Substring, in text: Substring) throws(CommandFailure) -> OptionSpec {
        if let exact = spec.options.first(where: { $0.long == String(name) }) { return exact }
        let candidates = spec.options.filter { $0.long?.hasPrefix(name) == true }
        if candidates.count == 1 { return candidates[0] }
        guard candidates.isEmpty else {
            let list = candidates.map { " '--\($0.binding)'" }.joined()
            throw misuse("option '--\(text)' is ambiguous; possibilities:\(list)")
        }
        var failure = misuse("unrecognized option '--\(text)'")
        let known = spec.options.compactMap(\.long).map { "--\($0)" }
        failure.suggest("--\(name)", among: known)
        throw failure
    }

    /// The normal form of the letters after one dash, or `nil` when one of them asks for help.
    private func cluster(
        _ letters: Substring, _ rest: inout ArraySlice<String>
    ) throws(CommandFailure) -> [String]? {
        var result: [String] = []
        var letters = letters
        while let letter = letters.popFirst() {
            guard let option = spec.options.first(where: { $0.hasShort(letter) }) else {
                throw misuse("invalid option -- '\(letter)'")
            }
            var value: String?
            if option.value != nil {
                value = letters.isEmpty ? rest.popFirst() : String(letters)
                guard value != nil else { throw misuse("option requires an argument -- '\(letter)'") }
                letters = ""
            }
            guard let taken = try accept(option, value) else { return nil }
            result += taken
        }
        return result
    }

    /// The normal form of one option, or `nil` for help.
    private func accept(_ option: OptionSpec, _ value: String?) throws(CommandFailure) -> [String]? {
        if option.long == "help" { return nil }
        if let refusal = option.refusal {
            throw CommandFailure("Option '--\(option.binding)' cannot be used: \(refusal)")
        }
        if option.isStep { return ["--step=\(option.binding)" + (value.map { ":\($0)" } ?? "")] }
        return ["--\(option.binding)" + (value.map { "=\($0)" } ?? "")]
    }

    private func misuse(_ message: String) -> CommandFailure {
        var failure = CommandFailure.usage(message)
        failure.namesCommand = true
        return failure
    }
}
