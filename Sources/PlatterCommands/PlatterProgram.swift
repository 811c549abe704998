import BlockCore
import CHost

/// The program.
public enum PlatterProgram {
    /// The version that `--version` prints.
    public static let version = "0.1.0"
    /// The release of QEMU whose options and output the program has; scripts compare it with the one they
    /// need.
    static let qemuVersion = "10.2.0"

    /// The line that `--version` prints under the name `program`.
    static func versionLine(_ program: String) -> String {
        program.hasPrefix("qemu-")
            ? "\(program) version \(qemuVersion) (platter \(version))\n" : "\(program) version \(version)\n"
    }

    /// Runs the command line of this process and returns the exit status.
    public static func run() -> Int32 {
        platter_prepare_process()
        var arguments: [String] = []
        let vector = platter_arguments() ?? UnsafePointer(CommandLine.unsafeArgv)
        while let bytes = vector[arguments.count] {
            arguments.append(String(rawCString: bytes))
        }
        return run(arguments)
    }

    /// Runs a command line and returns the exit status.
    ///
    /// - Parameter arguments: the command line as the system hands it over, the program's name first.
    public static func run(_ arguments: [String]) -> Int32 {
        platter_return_large_blocks()
        platter_raise_file_limit()
        let terminal = Terminal()
        let name = FileNames.lastComponent(arguments.first ?? "platter")
        return ProgramRun(program: name, terminal: terminal).run(Array(arguments.dropFirst()))
    }
}

/// One run of the program, under the name by which it was called.
private struct ProgramRun {
    let program: String
    let terminal: Terminal

    /// Runs the words behind the program's name and returns the exit status.
    func run(_ arguments: [String]) -> Int32 {
        do {
            var global = try GlobalOptions(program: program)
            if let named = CommandList.all.first(where: { $0.command.alias == program }) {
                return run(named.command, arguments, global)
            }
            switch try global.parse(arguments, program: program) {
            case .text(let text):
                terminal.print(text)
                return delivered(0)
            case .command(let name, let rest):
                guard let command = CommandList.command(named: name) else { throw Self.unknown(name) }
                return run(command, rest, global)
            }
        } catch {
            return terminal.report(CommandFailure(error), program: program)
        }
    }

    private static func unknown(_ name: String) -> CommandFailure {
        var failure = CommandFailure.usage("Command not found: \(name)")
        failure.suggest(name, among: CommandList.all.map(\.name))
        return failure
    }

    private func run(
        _ command: any ImageCommand.Type, _ arguments: [String], _ global: GlobalOptions
    ) -> Int32 {
        let spec = command.spec
        do {
            let parsed = try spec.parser.parse(arguments)
            guard !parsed.asksForHelp else {
                terminal.print(HelpText.command(spec, program: program))
                return delivered(0, of: spec)
            }
            var options = OptionReader(parsed)
            let work = command.init(&options)
            let objects = try CommandObjects(UniversalOptions(&options).objects)
            let policy = try work.openPolicy.map { try PolicyChoice.policy(named: $0) } ?? global.policy
            let context = CommandContext(
                programName: program, spec: spec, terminal: terminal, policy: policy, objects: objects)
            return delivered(try work.run(context), of: spec)
        } catch {
            let status = terminal.report(CommandFailure(error), program: program, command: spec)
            terminal.flush()
            return status
        }
    }

    /// The status of a command that ended with `status`: an answer that could not be written is an error.
    private func delivered(_ status: Int32, of command: CommandSpec? = nil) -> Int32 {
        guard let reason = terminal.lostAnswer() else { return status }
        let failure = terminal.report(
            CommandFailure("Could not write to standard output: \(reason)"), program: program,
            command: command)
        return status == 0 ? failure : status
    }
}
