/// One option as the command line, the help text, the completions and the man page know it.
///
/// Only ``OptionReader`` makes these, from the declarations in a command's initialiser.
struct OptionSpec: Equatable, Sendable {
    /// The letter after one dash.
    let short: Character?
    /// The name after two dashes.
    let long: String?
    /// The placeholder of the value in the help text; `nil` for an option without a value.
    let value: String?
    /// A sentence for the help text.
    let help: String
    /// Letters by which older releases of qemu-img knew the option; taken, not shown.
    var olderShorts: [Character] = []
    /// Why the option is refused, when it exists only to be refused.
    var refusal: String?
    /// Whether it asks for the help text, so that the rest of the command line does not matter.
    var asksForHelp = false

    /// The name without dashes by which messages call the option.
    var name: String { long ?? short.map { String($0) } ?? "" }

    /// The spellings with their dashes, the short one first.
    var spellings: [String] { [short.map { "-\($0)" }, long.map { "--\($0)" }].compactMap { $0 } }

    func hasShort(_ letter: Character) -> Bool { short == letter || olderShorts.contains(letter) }
}
