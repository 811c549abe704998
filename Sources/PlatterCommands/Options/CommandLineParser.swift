/// A command line, taken apart into options and operands.
struct ParsedArguments: Equatable {
    /// One use of an option.
    struct Use: Equatable {
        /// The option's index in the table.
        let option: Int
        /// The number of uses before this one.
        let place: Int
        /// The value; `nil` for an option without one.
        let value: String?
    }

    /// The uses of options, in the order given.
    fileprivate(set) var uses: [Use] = []
    fileprivate(set) var operands: [String] = []
    /// Whether the help text is asked for; the rest of the command line was not parsed then.
    fileprivate(set) var asksForHelp = false
}

/// Takes a command line apart as getopt_long does.
///
/// Options may follow operands and be bundled (`-pqfraw`), long names may be shortened as long as they are
/// unique, `--` ends the options. A value that is attached to its option begins behind the letter or the
/// equals sign, also where a combining mark there would make one character of both.
struct CommandLineParser {
    let options: [OptionSpec]
    /// Whether `-1G` is an operand.
    var takesNegativeOperands = false

    /// - Throws: the message that getopt would print.
    func parse(_ arguments: [String]) throws(CommandFailure) -> ParsedArguments {
        var parsed = ParsedArguments()
        var rest = arguments[...]
        while !parsed.asksForHelp, let argument = rest.popFirst() {
            if argument == "--" {
                parsed.operands += rest
                break
            }
            if argument.utf8.starts(with: "--".utf8) {
                try takeLong(argument.unicodeScalars.dropFirst(2), &rest, &parsed)
            } else if isBundle(argument) {
                try takeBundle(argument.unicodeScalars.dropFirst(), &rest, &parsed)
            } else {
                parsed.operands.append(argument)
            }
        }
        return parsed
    }

    private func isBundle(_ argument: String) -> Bool {
        var scalars = argument.unicodeScalars[...]
        guard scalars.popFirst() == "-", let first = scalars.first else { return false }
        return !(takesNegativeOperands && Character(first).isNumber)
    }

    /// Takes an option from its text after two dashes.
    private func takeLong(
        _ text: Substring.UnicodeScalarView, _ rest: inout ArraySlice<String>,
        _ parsed: inout ParsedArguments
    ) throws(CommandFailure) {
        let end = text.firstIndex(of: "=")
        let index = try find(String(text[..<(end ?? text.endIndex)]), in: String(text))
        let option = options[index]
        var value = end.map { String(text[text.index(after: $0)...]) }
        if option.value == nil, value != nil {
            throw misuse("option '--\(option.name)' doesn't allow an argument")
        }
        if option.value != nil, value == nil {
            value = rest.popFirst()
            guard value != nil else { throw misuse("option '--\(option.name)' requires an argument") }
        }
        try take(index, value, &parsed)
    }

    /// The index of the option with that long name, or of the only one whose name begins with it.
    private func find(_ name: String, in text: String) throws(CommandFailure) -> Int {
        if let exact = options.firstIndex(where: { $0.long == name }) { return exact }
        let candidates = options.indices.filter { options[$0].long?.hasPrefix(name) == true }
        if candidates.count == 1 { return candidates[0] }
        guard candidates.isEmpty else {
            let list = candidates.map { " '--\(options[$0].name)'" }.joined()
            throw misuse("option '--\(text)' is ambiguous; possibilities:\(list)")
        }
        var failure = misuse("unrecognized option '--\(text)'")
        failure.suggest("--\(name)", among: options.compactMap(\.long).map { "--\($0)" })
        throw failure
    }

    /// Takes the letters after one dash. The first one that has a value takes what is left of them as its
    /// value.
    private func takeBundle(
        _ letters: Substring.UnicodeScalarView, _ rest: inout ArraySlice<String>,
        _ parsed: inout ParsedArguments
    ) throws(CommandFailure) {
        var letters = letters
        while !parsed.asksForHelp, let letter = letters.popFirst() {
            guard let index = options.firstIndex(where: { $0.hasShort(Character(letter)) }) else {
                throw misuse("invalid option -- '\(letter)'")
            }
            var value: String?
            if options[index].value != nil {
                value = letters.isEmpty ? rest.popFirst() : String(letters)
                guard value != nil else { throw misuse("option requires an argument -- '\(letter)'") }
                letters.removeAll()
            }
            try take(index, value, &parsed)
        }
    }

    private func take(
        _ index: Int, _ value: String?, _ parsed: inout ParsedArguments
    ) throws(CommandFailure) {
        let option = options[index]
        if let refusal = option.refusal {
            throw CommandFailure("Option '--\(option.name)' cannot be used: \(refusal)")
        }
        parsed.uses.append(ParsedArguments.Use(option: index, place: parsed.uses.count, value: value))
        if option.asksForHelp { parsed.asksForHelp = true }
    }

    private func misuse(_ message: String) -> CommandFailure {
        var failure = CommandFailure.usage(message)
        failure.namesCommand = true
        return failure
    }
}
