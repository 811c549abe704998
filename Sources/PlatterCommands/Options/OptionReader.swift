/// Declares the options of a command one after the other, and returns the values of each from the command
/// line.
///
/// The declaration in the command's initialiser is the only place that states an option:
///
/// ```swift
/// init(_ options: inout OptionReader) {
///     repair = options.value("r", "repair", "leaks|all", "Repair: leaked space only, or everything")
///     quiet = options.quiet()
///     operands = options.operands
/// }
/// ```
///
/// A command is made twice: from an empty command line for its ``table``, which the parser, the help text and
/// the completions use; and from the parsed one for the values. Both times the n-th declaration is the n-th
/// option of the table, so an initialiser declares the same options whatever it is answered.
struct OptionReader {
    /// The options declared so far, in the order of the help text.
    private(set) var table: [OptionSpec] = []
    private let arguments: ParsedArguments

    /// - Parameter arguments: parsed by the table that the same declarations made; empty to make that table.
    init(_ arguments: ParsedArguments = ParsedArguments()) { self.arguments = arguments }

    /// The words of the command line that are neither options nor their values.
    var operands: [String] { arguments.operands }

    /// An option without a value: whether it was given.
    mutating func flag(_ short: Character?, _ long: String, _ help: String) -> Bool {
        !declare(OptionSpec(short: short, long: long, value: nil, help: help)).isEmpty
    }

    /// An option with a value, of which the last one given counts.
    ///
    /// - Parameters:
    ///   - value: the placeholder in the help text; with `|` in it, the words that the value can be.
    ///   - olderShorts: further letters that are taken, but not shown.
    mutating func value(
        _ short: Character?, _ long: String?, _ value: String, _ help: String, olderShorts: [Character] = []
    ) -> String? {
        declare(OptionSpec(short: short, long: long, value: value, help: help, olderShorts: olderShorts))
            .last?.value
    }

    /// An option with a value that may be given several times: all values in the order given.
    mutating func values(
        _ short: Character?, _ long: String?, _ value: String, _ help: String
    ) -> [String] {
        declare(OptionSpec(short: short, long: long, value: value, help: help)).compactMap(\.value)
    }

    /// An option that is one of several steps, which are taken in the order given: each of its uses.
    mutating func steps(_ long: String, _ help: String, value: String? = nil) -> [ParsedArguments.Use] {
        declare(OptionSpec(short: nil, long: long, value: value, help: help))
    }

    /// An option that is there to be refused: parsing fails where it is given.
    mutating func refuse(
        _ short: Character?, _ long: String, _ value: String?, _ help: String, because reason: String
    ) {
        _ = declare(OptionSpec(short: short, long: long, value: value, help: help, refusal: reason))
    }

    /// The option that asks for the help text; parsing ends there.
    mutating func help() {
        _ = declare(
            OptionSpec(short: "h", long: "help", value: nil, help: "Show this text", asksForHelp: true))
    }

    /// Adds an option to the table and returns its uses, in the order given.
    private mutating func declare(_ option: OptionSpec) -> [ParsedArguments.Use] {
        let index = table.count
        table.append(option)
        return arguments.uses.filter { $0.option == index }
    }
}
