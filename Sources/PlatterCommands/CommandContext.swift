import BlockCore
import BlockFilters
import BlockFormats
import BlockProtocols

/// The environment of a running command: names, terminal, and the opener of images. Thread-safe: an immutable
/// value.
struct CommandContext: Sendable {
    /// The name by which the program was called; messages begin with it.
    let programName: String
    let spec: CommandSpec
    let terminal: Terminal
    private(set) var opener: ImageOpener

    init(
        programName: String, spec: CommandSpec, terminal: Terminal, policy: OpenPolicy,
        objects: CommandObjects? = nil
    ) {
        self.programName = programName
        self.spec = spec
        self.terminal = terminal
        let registry = DriverRegistry(
            formats: StandardFormats.all, filters: StandardFilters.all, protocols: StandardProtocols.all)
        let epoch = HostEnvironment.value("SOURCE_DATE_EPOCH").flatMap { $0.isEmpty ? nil : $0 }
        let sourceDate = epoch.flatMap { Int($0) }
        var opener = ImageOpener(
            registry: registry, policy: policy, secrets: objects?.secretSource ?? .none,
            sourceDate: sourceDate)
        if let objects { opener.throttleGroups = objects.throttleGroups }
        opener.warn = { text in terminal.error("\(programName): warning: \(text)") }
        self.opener = opener
        if let epoch, sourceDate == nil {
            warn("SOURCE_DATE_EPOCH='\(epoch)' is no number of seconds and is not used")
        }
    }

    /// Whether the program was called as one of QEMU's.
    var isCalledAsQemu: Bool { PolicyChoice.isQemu(programName) }
    var registry: DriverRegistry { opener.registry }

    /// The same context with an opener that makes the files of a new image through `files`.
    func making(_ files: NewFiles) -> CommandContext {
        var context = self
        context.opener = opener.using(registry.replacing(files.entry))
        return context
    }

    /// Prints a line of the command's answer on standard output; see ``Terminal``.
    func print(_ line: String) { terminal.print(line + "\n") }

    /// Prints a remark on standard output; see ``Terminal``.
    func remark(_ line: String) { terminal.remark(line + "\n") }

    /// Prints `program: message` on standard error, and then the hint lines as they are.
    func complain(_ message: String, hint: String? = nil) {
        terminal.error("\(programName): \(PrintableText.shown(message))")
        if let hint { terminal.error(hint) }
    }

    /// Prints `program: message: hint` of an error on standard error.
    func complain(_ error: BlockError) { complain(error.message, hint: error.hint) }

    /// Prints `program: warning: message` on standard error.
    func warn(_ message: String) { complain("warning: \(message)") }
}
