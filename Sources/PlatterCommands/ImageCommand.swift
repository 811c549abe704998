/// One subcommand: its name, its options, and its work.
///
/// The initialiser declares the options, each once; ``OptionReader`` has an example.
/// To add a command: one file in Commands/ and one line in ``CommandList``.
protocol ImageCommand: Sendable {
    /// The command for the parser and the help text; its options are ``table``.
    static var spec: CommandSpec { get }

    /// The name of a program that is this command alone.
    static var alias: String? { get }

    /// The value of the command's own `--open-policy`, which takes precedence over the program's.
    var openPolicy: String? { get }

    /// Declares the options, and takes their values and the operands.
    init(_ options: inout OptionReader)

    /// Does the work and returns the exit status.
    ///
    /// - Throws: ``CommandFailure``, or a `BlockError`, which is printed after the program's name.
    func run(_ context: CommandContext) throws -> Int32
}

extension ImageCommand {
    static var alias: String? { nil }
    var openPolicy: String? { nil }

    /// The options that the initialiser declares, and those of every command.
    static var table: [OptionSpec] {
        var reader = OptionReader()
        _ = Self(&reader)
        _ = UniversalOptions(&reader)
        return reader.table
    }
}

/// All subcommands, in the order in which they are listed.
enum CommandList {
    static let all: [(name: String, command: any ImageCommand.Type)] = [
        ("amend", AmendCommand.self),
        ("bench", BenchCommand.self),
        ("bitmap", BitmapCommand.self),
        ("check", CheckCommand.self),
        ("commit", CommitCommand.self),
        ("compare", CompareCommand.self),
        ("convert", ConvertCommand.self),
        ("create", CreateCommand.self),
        ("dd", DdCommand.self),
        ("info", InfoCommand.self),
        ("io", IoCommand.self),
        ("map", MapCommand.self),
        ("measure", MeasureCommand.self),
        ("rebase", RebaseCommand.self),
        ("resize", ResizeCommand.self),
        ("snapshot", SnapshotCommand.self),
        ("stream", StreamCommand.self),
    ]

    static func command(named name: String) -> (any ImageCommand.Type)? {
        all.first { $0.name == name }?.command
    }
}
