import BlockCore
import BlockFormats

/// `measure`: calculates the file size of an image before it is made.
struct MeasureCommand: ImageCommand {
    static let spec = CommandSpec(
        "measure", "Tell how large the file of a new or converted image would be",
        operands: "[FILE]",
        options: table,
        notes: [
            "'required size' is the file with the data that is there now, 'fully allocated size' the file "
                + "once everything has been written."
        ])

    private let source: SourceOptions
    private let snapshot: String?
    private let targetFormat: String
    private let targetFormatOptions: [String]
    private let output: String?
    private let forceShare: Bool
    private let size: String?
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options, of: "FILE")
        snapshot = options.value("l", "snapshot", "SNAPSHOT", "Measure this snapshot of FILE")
        targetFormat =
            options.value("O", "target-format", "FMT", "Format of the image to be made (default: raw)")
            ?? StandardFormats.defaultName
        targetFormatOptions = options.values("o", nil, "K=V,...", "Its create options")
        output = options.output()
        forceShare = options.forceShare()
        size = options.value("s", "size", "SIZE", "Measure an empty disk of this size instead of FILE")
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        let size = try size.map { text throws(CommandFailure) in
            try SizeArgument.parse(text, what: "image size")
        }
        try checkOperands(hasSize: size != nil)
        let target = try Target(targetFormat, try CreateOptionText(targetFormatOptions), context)
        let measured: MeasuredSize
        if let filename = operands.first {
            measured = try measure(try ImageName(filename, source), target, context)
        } else {
            measured = try target.measure(size: size ?? 0, source: nil)
        }
        show(measured, output, context)
        return 0
    }

    private func checkOperands(hasSize: Bool) throws(CommandFailure) {
        if operands.count > 1 { throw CommandFailure("At most one filename argument is allowed.") }
        if operands.isEmpty && (source.imageOpts || source.format != nil || snapshot != nil) {
            throw CommandFailure("--image-opts, -f, and -l require a filename argument.")
        }
        if operands.isEmpty && !hasSize {
            throw CommandFailure("Either --size N or one filename must be specified.")
        }
        if !operands.isEmpty && hasSize {
            throw CommandFailure("--size N cannot be used together with a filename.")
        }
    }

    private func measure(
        _ image: ImageName, _ target: Target, _ context: CommandContext
    ) throws -> MeasuredSize {
        let settings = OpenSettings(forceShare: forceShare)
        let snapshot = try snapshot.map { text throws(CommandFailure) in try SnapshotName(text) }
        return try context.closing(try context.open(image, settings: settings)) { node in
            try snapshot?.select(in: node)
            return try target.measure(size: try node.length(), source: node)
        }
    }

    private func show(_ size: MeasuredSize, _ output: OutputFormat, _ context: CommandContext) {
        switch output {
        case .human:
            context.print("required size: \(size.required)")
            context.print("fully allocated size: \(size.fullyAllocated)")
            if let bitmaps = size.bitmaps { context.print("bitmaps size: \(bitmaps)") }
        case .json:
            var fields = size.bitmaps.map { [InfoField("bitmaps", .number($0))] } ?? []
            fields += [
                InfoField("required", .number(size.required)),
                InfoField("fully-allocated", .number(size.fullyAllocated)),
            ]
            context.terminal.print(JSONWriter.text(.object(fields)))
        }
    }
}

/// The format of the image that is measured, with its create options.
private struct Target {
    private let format: any Measurable.Type
    private let options: CreateOptions

    init(_ name: String, _ text: CreateOptionText, _ context: CommandContext) throws {
        let creatable = try context.opener.creatableFormat(name)
        guard let measurable = creatable.asMeasurable else {
            throw CommandFailure("Block driver '\(name)' does not support size measurement")
        }
        format = measurable
        var declared = measurable.createOptions
        for option in context.registry.protocolEntry(named: "file")?.createOptions ?? []
        where !declared.contains(where: { $0.key == option.key }) {
            declared.append(option)
        }
        var options = CreateOptions(declared)
        do throws(BlockError) { try text.apply(to: &options) } catch {
            var failure = CommandFailure(error)
            // The line is printed after the hint of the error.
            failure.details.append("\(context.programName): Invalid options for file format '\(name)'")
            throw failure
        }
        self.options = options
    }

    func measure(size: Int, source: BlockNode?) throws(BlockError) -> MeasuredSize {
        var options = options
        try options.set(.size, to: String(size))
        return try format.measure(options, virtualSize: size, source: source)
    }
}
