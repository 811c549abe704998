/// A command as the command line and its documentation know it.
struct CommandSpec: Sendable {
    let name: String
    /// What it does, in one sentence without a full stop.
    let summary: String
    /// The operands in the usage line.
    let operands: String
    /// The table that the command's declarations make; see ``ImageCommand/table``.
    let options: [OptionSpec]
    /// Paragraphs for the help text and the man page.
    let notes: [String]
    /// The meanings of exit statuses, beyond 0 for success and ``errorStatus`` for errors.
    var statuses: [(status: Int32, meaning: String)] = []
    /// The exit status of an error.
    var errorStatus: Int32 = 1
    /// Whether `-1G` is an operand.
    var takesNegativeOperands = false
    /// The name of a program that is this command alone.
    var alias: String?

    init(
        _ name: String, _ summary: String, operands: String, options: [OptionSpec], notes: [String] = []
    ) {
        self.name = name
        self.summary = summary
        self.operands = operands
        self.options = options
        self.notes = notes
    }

    /// How the command is called, in messages and help.
    func title(_ program: String) -> String { program == alias ? program : "\(program) \(name)" }

    var parser: CommandLineParser {
        CommandLineParser(options: options, takesNegativeOperands: takesNegativeOperands)
    }
}
