import BlockCore
import BlockFormats

/// `create`: makes an empty image or an overlay.
struct CreateCommand: ImageCommand {
    static let spec = CommandSpec(
        "create", "Make a new image", operands: "FILE [SIZE]",
        options: table,
        notes: [
            "SIZE is in bytes, or with a suffix k, M, G, T, P or E in powers of 1024. An overlay without "
                + "SIZE is as large as its backing file. The backing file's name is stored as given; a "
                + "relative name counts from the new image's folder."
        ])

    private let format: String
    private let options: [String]
    private let backing: String?
    private let backingFormat: String?
    private let backingUnsafe: Bool
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        format =
            options.value("f", "format", "FMT", "Format of the new image (default: raw)")
            ?? StandardFormats.defaultName
        self.options = options.values(
            "o", "options", "K=V,...", "Options of the format; '-o help' lists them")
        backing = options.value("b", "backing", "FILE", "Make an overlay of this backing file")
        backingFormat = options.value(
            "B", "backing-format", "FMT", "Format of the backing file", olderShorts: ["F"])
        backingUnsafe = options.flag(
            "u", "backing-unsafe", "Store the backing file's name without opening it")
        quiet = options.quiet()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let text = try CreateOptionText(options)
        if text.asksForHelp {
            context.terminal.print(try context.createOptionHelp(format: format, filename: operands.first))
            return 0
        }
        guard let filename = operands.first else { throw CommandFailure.usage("Expecting image file name") }
        let size = try operands.dropFirst().first.map { text throws(CommandFailure) in
            try SizeArgument.parse(text, what: "image size")
        }
        if operands.count > 2 { throw CommandFailure.usage("Unexpected argument: \(operands[2])") }
        do throws(BlockError) {
            try create(filename, size: size, text, context)
        } catch {
            throw error.prefixed(filename)
        }
        return 0
    }

    private func create(
        _ filename: String, size: Int?, _ text: CreateOptionText, _ context: CommandContext
    ) throws(BlockError) {
        var creator = try ImageCreator(context, filename: filename, format: format, text: text)
        creator.trustsBacking = backingUnsafe
        creator.isQuiet = quiet
        creator.showsNotes = !quiet
        try creator.setBacking(backing, format: backingFormat)
        try creator.resolve(size: size)
        let made = creator
        let signals = SignalWatch(onInterrupt: { made.abandon() }, onStatusRequest: {})
        defer { signals.stop() }
        do throws(BlockError) { try creator.create() } catch {
            creator.discard()
            throw error
        }
        try creator.finish()
    }
}
