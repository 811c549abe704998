import BlockCore
import CHost

/// The program.
public enum PlatterProgram {
    /// The version that `--version` tells.
    public static let version = "0.1.0"
    /// The release of QEMU whose options and output these are; scripts compare it with the one they need.
    static let qemuVersion = "10.2.0"

    /// The line that `--version` prints under the name `program`.
    static func versionLine(_ program: String) -> String {
        program.hasPrefix("qemu-")
            ? "\(program) version \(qemuVersion) (platter \(version))\n" : "\(program) version \(version)\n"
    }

    /// Runs the command line of this process and answers the exit status.
    public static func run() -> Int32 {
        platter_prepare_process()
        var arguments: [String] = []
        let vector = platter_arguments() ?? UnsafePointer(CommandLine.unsafeArgv)
        while let bytes = vector[arguments.count] {
            arguments.append(String(rawCString: bytes))
        }
        return run(arguments)
    }

    /// Runs a command line and answers the exit status.
    ///
    /// - Parameter arguments: as from the system: the name by which the program was called comes first.
    public static func run(_ arguments: [String]) -> Int32 {
        platter_return_large_blocks()
        platter_raise_file_limit()
        let terminal = Terminal()
        let name = FileNames.lastComponent(arguments.first ?? "platter")
        return run(name, Array(arguments.dropFirst()), terminal)
    }

    /// The status of a command that ended with `status`: an answer that could not be written is an error.
    private static func delivered(
        _ status: Int32, _ program: String, _ spec: CommandSpec?, _ terminal: Terminal
    ) -> Int32 {
        guard let reason = terminal.lostAnswer() else { return status }
        let failure = terminal.report(
            CommandFailure("Could not write to standard output: \(reason)"), program: program, command: spec)
        return status == 0 ? failure : status
    }

    private static func run(_ name: String, _ arguments: [String], _ terminal: Terminal) -> Int32 {
        do {
            var global = try GlobalOptions(program: name)
            if let named = CommandList.all.first(where: { $0.command.alias == name }) {
                return try run(named.name, arguments, name, global, terminal)
            }
            switch try global.parse(arguments, program: name) {
            case .text(let text):
                terminal.print(text)
                return delivered(0, name, nil, terminal)
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
            var failure = CommandFailure.usage("Command not found: \(commandName)")
            failure.suggest(commandName, among: CommandList.all.map(\.name))
            throw failure
        }
        let spec = command.spec
        do {
            let parsed = try spec.parser.parse(arguments)
            guard !parsed.asksForHelp else {
                terminal.print(HelpText.command(spec, program: program))
                return delivered(0, program, spec, terminal)
            }
            var options = OptionReader(parsed)
            let work = command.init(&options)
            let objects = try SecretObjects(UniversalOptions(&options).objects)
            let context = CommandContext(
                programName: program, spec: spec, terminal: terminal,
                policy: try work.openPolicy.map { try PolicyChoice.policy(named: $0) } ?? global.policy,
                secrets: objects.source)
            let status = try work.run(context)
            return delivered(status, program, spec, terminal)
        } catch {
            let status = terminal.report(CommandFailure(error), program: program, command: spec)
            terminal.flush()
            return status
        }
    }
}
