import ArgumentParser
import BlockCore

/// `io`: reads, writes and examines an image by commands.
struct IoCommand: ImageCommand {
    static let spec: CommandSpec = {
        var spec = CommandSpec(
            "io", "Read, write and examine an image by commands", operands: "[FILE]",
            options: [
                OptionSpec(
                    "c", "cmd", "COMMAND",
                    "Run this command; may be given several times (default: commands from standard input)"),
                .format(), .imageOpts,
                OptionSpec("r", "read-only", nil, "Open the image without writing"),
                OptionSpec("s", "snapshot", nil, "Write to a temporary file that is thrown away"),
                OptionSpec("n", "nocache", nil, "Go past the page cache; the same as -t none"),
                OptionSpec(
                    "C", "copy-on-read", nil, "Store what is read from the backing file in the image"),
                OptionSpec("m", "misalign", nil, "Use memory that direct I/O does not like"),
                OptionSpec("k", "native-aio", nil, "The same as -i native"), .engine,
                .cache("t", of: "the image"),
                OptionSpec("d", "discard", "MODE", "What discard does to the file: ignore (off), unmap (on)"),
                .forceShare,
                PolicyChoice.option,
                OptionSpec(
                    "T", "trace", "SPEC", "Trace events of QEMU (refused: there are none here)",
                    refusal: "there are no trace events"),
                OptionSpec("V", "version", nil, "Show the version"),
            ],
            notes: [
                "A command is a name and arguments with spaces between them: read, write, aio_read, map; "
                    + "'help' lists them. A program of the name qemu-io is this command."
            ])
        spec.alias = "qemu-io"
        spec.statuses = [(0, "every command did its work"), (1, "a command failed")]
        return spec
    }()

    @OptionGroup var source: SourceOptions
    @Option var cmd: [String] = []
    @Flag var readOnly = false
    @Flag var snapshot = false
    @Flag var nocache = false
    @Flag var copyOnRead = false
    @Flag var misalign = false
    @Flag var nativeAio = false
    @Option var aio: String?
    @Option var cache: String?
    @Option var discard: String?
    @Flag var version = false
    @Argument var operands: [String] = []

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
        if cmd.isEmpty { interact(shell) } else { cmd.forEach { if !shell.isDone { shell.run($0) } } }
        return shell.end()
    }

    private func opening() throws -> IoShell.Opening {
        var opening = IoShell.Opening()
        opening.isTemporary = snapshot
        opening.settings.readOnly = readOnly
        opening.settings.copyOnRead = copyOnRead
        opening.settings.forceShare = source.forceShare
        do throws(IoFailure) {
            try IoFiles.apply(
                cache: cache, noCache: nocache, discard: discard, engine: aio, native: nativeAio,
                to: &opening.settings)
        } catch {
            guard case .complaint(let message, _) = error else { throw error }
            throw CommandFailure(message)
        }
        if let file = operands.first { opening.name = try ImageName(file, source) }
        return opening
    }

    private func interact(_ shell: IoShell) {
        let editor = LineEditor(
            shell.terminal, prompt: "\(shell.context.programName)> ", words: IoCatalog.all.map(\.name))
        while !shell.isDone, let line = editor.next() {
            shell.run(line)
            shell.tellEnded()
        }
    }
}
