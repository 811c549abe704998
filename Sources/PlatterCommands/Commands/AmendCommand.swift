import BlockCore
import BlockJobs

/// `amend`: changes options of an image in place.
struct AmendCommand: ImageCommand {
    static let spec = CommandSpec(
        "amend", "Change options of an existing image", operands: "FILE",
        options: table,
        notes: [
            "The disk keeps its bytes, and whatever interrupts the work, the image opens, as before or as "
                + "asked for. What cannot be changed is refused before anything is done."
        ])

    private let options: [String]
    private let source: SourceOptions
    private let cache: String?
    private let force: Bool
    private let progress: Bool
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        self.options = options.values(
            "o", "options", "K=V,...", "What to change; '-o help' with -f lists what can be")
        source = SourceOptions(&options)
        cache = options.cache("t", of: "FILE")
        force = options.flag(
            nil, "force", "Also change key slots so that the data may become unreadable for good")
        progress = options.progress()
        quiet = options.quiet()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        guard !options.isEmpty else { throw CommandFailure.usage("Must specify options (-o)") }
        let text = try CreateOptionText(options)
        if text.asksForHelp, let format = source.format {
            context.terminal.print(try context.amendOptionHelp(format: format))
            return 0
        }
        let image = try ImageName(try context.oneFile(operands), source)
        let settings = OpenSettings(readOnly: false, cache: try context.cacheMode(cache))
        return try context.closing(try context.open(image, settings: settings)) { node in
            if text.asksForHelp {
                context.terminal.print(try context.amendOptionHelp(format: node.driverName))
                return 0
            }
            let changes = try context.amendments(text, of: node.driverName)
            let amendment = Amendment(
                changes, force: force, secrets: context.opener.secrets, warn: { context.warn($0) })
            let job = AmendJob(node: node, amendment: amendment)
            let reporter = ProgressReporter(context, isShown: progress && !quiet)
            try reporter.run(job)
            return 0
        }
    }
}

extension CommandContext {
    /// The text of `amend -o help`.
    func amendOptionHelp(format: String) throws(BlockError) -> String {
        CreateOptionReport.list(
            title: "Amend options for '\(format)':", declared: try amendableFormat(format).amendOptions)
    }

    /// The options to change, with their names and types checked.
    func amendments(_ text: CreateOptionText, of format: String) throws(BlockError) -> CreateOptions {
        var options = CreateOptions(try amendableFormat(format).amendOptions)
        for (key, value) in try text.pairs() {
            do throws(BlockError) { try options.set(name: key, to: value) } catch {
                let creatable = registry.format(named: format)?.asCreatable
                guard !options.declares(CreateOptionKey(key)),
                    creatable?.createOptions.contains(where: { $0.key.rawValue == key }) == true
                else { throw error }
                throw BlockError(
                    error.kind, error.message, hint: "This option can only be given when an image is created."
                )
            }
        }
        return options
    }

    private func amendableFormat(_ name: String) throws(BlockError) -> any Amendable.Type {
        let format = registry.format(named: name)
        guard format != nil || registry.filters.contains(where: { $0.name == name }) else {
            throw registry.unknown("Unknown file format", name)
        }
        guard let amendable = format?.asAmendable else {
            throw BlockError(
                .unsupported, "Format driver '\(name)' does not support option amendment")
        }
        return amendable
    }
}
