import ArgumentParser

/// One subcommand: its table of options, the properties that they are bound to, and its work.
///
/// The table (``spec``) decides what the command line may say; swift-argument-parser binds the normalised
/// arguments to the properties: an option with a value needs an `@Option`, one without a `@Flag`, both named
/// as the table's ``OptionSpec/binding``; file names are the `@Argument var operands: [String]`.
/// To add a command: one file in Commands/ and one line in ``CommandList``.
protocol ImageCommand: ParsableCommand {
    static var spec: CommandSpec { get }

    /// Does the work and answers the exit status.
    ///
    /// - Throws: ``CommandFailure``, or a `BlockError`, which is printed after the program's name.
    func run(_ context: CommandContext) throws -> Int32
}

extension ImageCommand {
    /// Help is asked for before arguments are bound, so nobody has to look for it again.
    static var configuration: CommandConfiguration { CommandConfiguration(helpNames: []) }

    /// The command with its properties set from normalised arguments.
    static func bound(to arguments: [String]) throws -> Self {
        let operands = arguments.firstIndex(of: "--") ?? arguments.endIndex
        // swift-argument-parser takes an empty value only as an argument of its own.
        let options = arguments[..<operands].flatMap { argument in
            argument.firstIndex(of: "=") == argument.indices.last
                ? [String(argument.dropLast()), ""] : [argument]
        }
        return try parse(options + arguments[operands...])
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
