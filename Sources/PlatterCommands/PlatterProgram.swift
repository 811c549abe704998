import CHost

/// The program.
public enum PlatterProgram {
    /// The version that `--version` tells.
    public static let version = "0.1.0"

    /// Runs the command line of this process and answers the exit status.
    ///
    /// Arguments that are not UTF-8 are refused: repaired, two file names could become one.
    public static func run() -> Int32 {
        for index in 1..<max(1, Int(CommandLine.argc)) {
            guard let bytes = CommandLine.unsafeArgv[index] else { break }
            guard String(validatingCString: bytes) != nil else {
                let name = baseName(CommandLine.arguments.first ?? "platter")
                Terminal().error("\(name): '\(String(cString: bytes))' is not UTF-8, as arguments have to be")
                return 1
            }
        }
        return run(CommandLine.arguments)
    }

    /// Runs a command line and answers the exit status.
    ///
    /// - Parameter arguments: as from the system: the name by which the program was called comes first.
    public static func run(_ arguments: [String]) -> Int32 {
        platter_return_large_blocks()
        platter_raise_file_limit()
        let terminal = Terminal()
        let name = baseName(arguments.first ?? "platter")
        let status = run(name, Array(arguments.dropFirst()), terminal)
        guard terminal.flush() else {
            terminal.error("\(name): Could not write to standard output")
            return status == 0 ? 1 : status
        }
        return status
    }

    private static func run(_ name: String, _ arguments: [String], _ terminal: Terminal) -> Int32 {
        do {
            var global = GlobalOptions()
            if let alias = CommandList.all.first(where: { $0.command.spec.alias == name }) {
                return try run(alias.name, arguments, name, global, terminal)
            }
            switch try global.parse(arguments, program: name) {
            case .text(let text):
                terminal.print(text)
                return 0
            case .command(let commandName, let rest):
                return try run(commandName, rest, name, global, terminal)
            }
        } catch {
            return terminal.report(CommandFailure(error), program: name)
        }
    }

    private static func run(
        _ commandName: String, _ arguments: [String], _ program: String, _ global: GlobalOptions,
        _ terminal: Terminal
    ) throws -> Int32 {
        guard let command = CommandList.command(named: commandName) else {
            throw CommandFailure.usage("Command not found: \(commandName)")
        }
        let spec = command.spec
        do {
            switch try ArgumentNormalizer(spec: spec, program: program).normalise(arguments) {
            case .help:
                terminal.print(HelpText.command(spec, program: program))
                return 0
            case .arguments(var normal):
                let objects = try SecretObjects(takingFrom: &normal)
                let context = CommandContext(
                    programName: program, spec: spec, terminal: terminal, policy: global.policy,
                    secrets: objects.source)
                return try command.bound(to: normal).run(context)
            }
        } catch {
            let failure = CommandFailure(error)
            return terminal.report(failure, program: program, command: spec)
        }
    }

    /// The last component of the path by which the program was called.
    private static func baseName(_ path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }
}
