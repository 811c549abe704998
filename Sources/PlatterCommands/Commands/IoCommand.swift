import BlockCore

/// `io`: reads, writes and examines an image by commands.
struct IoCommand: ImageCommand {
    static let alias: String? = "qemu-io"
    static let spec: CommandSpec = {
        var spec = CommandSpec(
            "io", "Read, write and examine an image by commands", operands: "[FILE]",
            options: table,
            notes: [
                "A command is a name and arguments with spaces between them: read, write, aio_read, map; "
                    + "'help' lists them. A program of the name qemu-io is this command."
            ])
        spec.alias = alias
        spec.statuses = [(0, "every command did its work"), (1, "a command failed")]
        return spec
    }()

    private let commands: [String]
    private let source: SourceOptions
    private let readOnly: Bool
    private let snapshot: Bool
    private let misalign: Bool
    private let copyOnRead: Bool
    private let forceShare: Bool
    private let access: IoAccess
    let openPolicy: String?
    private let version: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        commands = options.values(
            "c", "cmd", "COMMAND",
            "Run this command; may be given several times (default: commands from standard input)")
        source = SourceOptions(&options)
        readOnly = options.flag("r", "read-only", "Open the image without writing")
        snapshot = options.flag("s", "snapshot", "Write to a temporary file that is thrown away")
        var access = IoAccess()
        access.passesCache = options.flag("n", "nocache", "Go past the page cache; the same as -t none")
        copyOnRead = options.flag(
            "C", "copy-on-read", "Store what is read from the backing file in the image")
        misalign = options.flag("m", "misalign", "Use memory that direct I/O does not like")
        access.isNative = options.flag("k", "native-aio", "The same as -i native")
        access.engine = options.aio()
        access.cache = options.cache("t", of: "the image")
        access.discard = options.value(
            "d", "discard", "MODE", "What discard does to the file: ignore (off), unmap (on)")
        self.access = access
        forceShare = options.forceShare()
        openPolicy = options.openPolicy()
        options.refuse(
            "T", "trace", "SPEC", "Trace events of QEMU (refused: there are none here)",
            because: "there are no trace events")
        version = options.version()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        if version {
            context.terminal.print(PlatterProgram.versionLine(context.programName))
            return 0
        }
        guard operands.count <= 1 else { throw CommandFailure.usage("Expecting at most one image file name") }
        let shell = IoShell(context)
        shell.misaligns = misalign
        let opening = try opening()
        if opening.name != nil {
            do throws(BlockError) { try shell.open(opening) } catch { throw CommandFailure(error) }
        }
        if commands.isEmpty {
            interact(shell)
        } else {
            commands.forEach { if !shell.isDone { shell.run($0) } }
        }
        return shell.end()
    }

    private func opening() throws -> IoShell.Opening {
        var opening = IoShell.Opening()
        opening.isTemporary = snapshot
        opening.settings.readOnly = readOnly
        opening.settings.copyOnRead = copyOnRead
        opening.settings.forceShare = forceShare
        do throws(IoFailure) {
            try access.apply(to: &opening.settings)
        } catch {
            guard case .complaint(let message, _) = error else { throw error }
            throw CommandFailure(message)
        }
        if let file = operands.first { opening.name = try ImageName(file, source) }
        return opening
    }

    private func interact(_ shell: IoShell) {
        let words = IoCatalog.verbs(asQemu: shell.context.isCalledAsQemu).map(\.name)
        let editor = LineEditor(
            shell.terminal, prompt: "\(shell.context.programName)> ", words: words)
        while !shell.isDone, let line = editor.next() {
            shell.run(line)
            shell.printEndedReports()
        }
    }
}
