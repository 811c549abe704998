import BlockCore

/// `resize`: changes a disk's size.
struct ResizeCommand: ImageCommand {
    static let spec: CommandSpec = {
        var spec = CommandSpec(
            "resize", "Change the size of an image's disk", operands: "FILE [+|-]SIZE",
            options: table,
            notes: [
                "SIZE with a sign is added to or taken from the present size. Shrink the partitions and file "
                    + "systems inside first; after growing, grow them."
            ])
        spec.takesNegativeOperands = true
        return spec
    }()

    private let source: SourceOptions
    private let shrink: Bool
    private let preallocation: String?
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        shrink = options.flag(nil, "shrink", "Allow the disk to become smaller and lose its end")
        preallocation = options.value(
            nil, "preallocation", "PREALLOC", "How new space is taken up: off, metadata, falloc or full")
        quiet = options.quiet()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        if operands.count < 2 { throw CommandFailure.usage("Not enough arguments") }
        guard operands.count == 2 else {
            throw CommandFailure.usage("Expecting image file name and size")
        }
        let change = try SizeChange(operands[1])
        let mode = try preallocationMode()
        let image = try ImageName(operands[0], source)
        let settings = OpenSettings(readOnly: false)
        return try context.closing(try context.open(image, settings: settings)) { node in
            try resize(node, to: try change.applied(to: try node.length()), mode)
            if !quiet { context.remark("Image resized.") }
            return 0
        }
    }

    private func preallocationMode() throws(CommandFailure) -> Preallocation {
        guard let preallocation else { return .off }
        guard let mode = Preallocation(rawValue: preallocation) else {
            throw CommandFailure("Invalid preallocation mode '\(preallocation)'")
        }
        return mode
    }

    private func resize(_ node: BlockNode, to size: Int, _ mode: Preallocation) throws {
        let current = try node.length()
        if size <= current && mode != .off {
            throw CommandFailure("Preallocation can only be used for growing images")
        }
        if size < current && !shrink {
            var failure = CommandFailure("Use the --shrink option to perform a shrink operation.")
            failure.messages.append(
                "warning: Shrinking an image will delete all data beyond the shrunken image's end. "
                    + "Before performing such an operation, make sure there is no important data there.")
            throw failure
        }
        try node.resize(to: size, preallocation: mode)
    }
}

/// A new size, or the number of bytes to add or to remove.
private struct SizeChange {
    private enum Direction { case absolute, grow, shrink }
    private var direction: Direction
    private var bytes: Int

    init(_ text: String) throws(BlockError) {
        switch text.first {
        case "+": direction = .grow
        case "-": direction = .shrink
        default: direction = .absolute
        }
        let number = direction == .absolute ? text : String(text.dropFirst())
        bytes = try OptionValue.size(number, name: "size")
    }

    func applied(to current: Int) throws(CommandFailure) -> Int {
        let (size, overflow) =
            switch direction {
            case .absolute: (bytes, false)
            case .grow: current.addingReportingOverflow(bytes)
            case .shrink: current.subtractingReportingOverflow(bytes)
            }
        guard !overflow, size > 0 else { throw CommandFailure("New image size must be positive") }
        return size
    }
}
