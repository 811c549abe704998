import BlockCore

/// `bitmap`: changes a dirty bitmap inside an image.
struct BitmapCommand: ImageCommand {
    static let spec = CommandSpec(
        "bitmap", "Change a bitmap inside an image that records what is written",
        operands: "FILE BITMAP",
        options: table,
        notes: [
            "--add, --remove, --clear, --enable, --disable and --merge may be given together, and several "
                + "times; they are done in the order given.",
            "'info' lists the bitmaps of an image. One whose flags say 'in-use' was not stored after the "
                + "last writes: it can only be removed.",
        ])

    private let source: SourceOptions
    /// The steps in the order given.
    private let steps: [Step]
    private let granularity: String?
    private let sourceFile: String?
    private let sourceFormat: String?
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options, of: "FILE")
        var steps: [(place: Int, step: Step)] = []
        func add(_ uses: [ParsedArguments.Use], _ step: (String) -> Step) {
            steps += uses.map { (place: $0.place, step: step($0.value ?? "")) }
        }
        add(options.steps("add", "Add BITMAP, clean and recording")) { _ in .add }
        granularity = options.value(
            "g", "granularity", "SIZE",
            "With --add: how many bytes one bit stands for, a power of two from 512 to 2G")
        add(options.steps("remove", "Remove BITMAP")) { _ in .remove }
        add(options.steps("clear", "Forget what BITMAP has recorded")) { _ in .clear }
        add(options.steps("enable", "Let BITMAP record writes")) { _ in .enable }
        add(options.steps("disable", "Stop BITMAP from recording")) { _ in .disable }
        add(options.steps("merge", "Add what the bitmap SOURCE has to BITMAP", value: "SOURCE")) {
            .merge($0)
        }
        self.steps = steps.sorted { $0.place < $1.place }.map(\.step)
        sourceFile = options.value(
            "b", "source-file", "SRC_FILE", "With --merge: the image that has SOURCE (default: FILE)")
        sourceFormat = options.value("F", "source-format", "SRC_FMT", "Format of SRC_FILE")
        operands = options.operands
    }

    /// One change of the bitmap.
    private enum Step {
        case add
        case remove
        case clear
        case enable
        case disable
        case merge(String)

        var name: String {
            switch self {
            case .add: "add"
            case .remove: "remove"
            case .clear: "clear"
            case .enable: "enable"
            case .disable: "disable"
            case .merge: "merge"
            }
        }
        var isAdd: Bool { if case .add = self { true } else { false } }
        var isMerge: Bool { if case .merge = self { true } else { false } }
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let granularity = try granularity.map { text throws(CommandFailure) in
            try SizeArgument.parse(text, what: "granularity")
        }
        guard operands.count == 2 else {
            throw CommandFailure.usage("Expecting image file name and bitmap name")
        }
        try checkCombinations()
        let image = try ImageName(operands[0], source)
        // Bitmaps belong to the image alone, so a backing file may be in use or missing.
        let settings = OpenSettings(readOnly: false, withoutBacking: true)
        return try context.closing(try context.open(image, settings: settings)) { node in
            try withSource(node, context) { source in
                for step in steps { try perform(step, granularity, on: node, from: source) }
            }
            return 0
        }
    }

    private func checkCombinations() throws(CommandFailure) {
        guard !steps.isEmpty else {
            throw CommandFailure(
                "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge")
        }
        if granularity != nil && !steps.contains(where: \.isAdd) {
            throw CommandFailure("granularity only supported with --add")
        }
        if sourceFormat != nil && sourceFile == nil { throw CommandFailure("-F only supported with -b") }
        if sourceFile != nil && !steps.contains(where: \.isMerge) {
            throw CommandFailure("Merge bitmap source file only supported with --merge")
        }
    }

    /// Runs `body` with the image from which bitmaps are merged.
    private func withSource(
        _ node: BlockNode, _ context: CommandContext, _ body: (BlockNode) throws -> Void
    ) throws {
        guard let sourceFile else { return try body(node) }
        let settings = OpenSettings(withoutBacking: true)
        let image = ImageName(sourceFile, format: sourceFormat)
        try context.closing(try context.open(image, settings: settings), body)
    }

    private func perform(
        _ step: Step, _ granularity: Int?, on node: BlockNode, from source: BlockNode
    ) throws(BlockError) {
        let name = operands[1]
        do throws(BlockError) {
            if case .merge(let sourceName) = step {
                // The source is read first, since it may be in the image that is about to change.
                let bits = try Self.bits(of: sourceName, in: source)
                return try Self.change(node, name) { driver throws(BlockError) in
                    try driver.mergeBitmap(bits, into: name)
                }
            }
            if step.isAdd { _ = try node.bitmapKeeper() }
            try Self.change(node, name) { driver throws(BlockError) in
                switch step {
                case .add:
                    // As in qemu-img, 0 stands for the default.
                    let bytes = granularity == 0 ? nil : granularity
                    try driver.addBitmap(name, granularity: bytes, isEnabled: true)
                case .remove: try driver.removeBitmap(name)
                case .clear: try driver.clearBitmap(name)
                case .enable: try driver.setBitmap(name, isEnabled: true)
                case .disable: try driver.setBitmap(name, isEnabled: false)
                case .merge: break
                }
            }
        } catch { throw error.prefixed("Operation \(step.name) on bitmap \(name) failed") }
    }

    /// Changes the bitmaps of an image. Where the format has no bitmaps, none of that name exists.
    private static func change(
        _ node: BlockNode, _ name: String, _ body: (any BitmapCapable) throws(BlockError) -> Void
    ) throws(BlockError) {
        guard node.format?.asBitmapCapable != nil else { throw notFound(name) }
        try node.changeBitmaps(body)
    }

    private static func bits(of name: String, in node: BlockNode) throws(BlockError) -> DirtyBitmap {
        guard let driver = node.format?.asBitmapCapable else { throw notFound(name) }
        return try driver.bitmap(named: name)
    }

    private static func notFound(_ name: String) -> BlockError {
        BlockError(.notFound, "Dirty bitmap '\(name)' not found")
    }
}
