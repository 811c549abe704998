import BlockCore
import BlockFormats

/// `dd`: copies a part of a disk into a new image.
struct DdCommand: ImageCommand {
    static let spec = CommandSpec(
        "dd", "Copy a disk, or part of it, into a new image",
        operands: "if=FILE of=FILE [bs=SIZE] [count=N] [skip=N]",
        options: table,
        notes: [
            "bs is the size of a block (default: 512), count how many blocks to copy, skip how many to leave "
                + "out first. The output file is made anew. What reads as zeroes is not written."
        ])

    private let source: SourceOptions
    private let outputFormat: String
    private let forceShare: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options, of: "the input")
        outputFormat =
            options.value("O", "output-format", "FMT", "Format of the output (default: raw)")
            ?? StandardFormats.defaultName
        forceShare = options.forceShare()
        operands = options.operands
    }

    /// The size of reads and writes, in bytes.
    private static let pieceBytes = Int.mib(2)
    private static let sectorBytes = 512

    func run(_ context: CommandContext) throws -> Int32 {
        let operands = try DdOperands(operands)
        guard let input = operands.input, let output = operands.output else {
            throw CommandFailure("Must specify both input and output files")
        }
        let image = try ImageName(input, source)
        let settings = OpenSettings(forceShare: forceShare)
        return try context.closing(try context.open(image, settings: settings)) { node in
            if context.wouldEmpty(output, readBy: [node]) {
                throw CommandFailure("\(output): the output is the input file, or a backing file of it")
            }
            let range = try range(of: operands, in: node, context)
            try copy(node, range, to: output, context)
            return 0
        }
    }

    /// The guest bytes of the input that are copied.
    private func range(
        of operands: DdOperands, in node: BlockNode, _ context: CommandContext
    ) throws(BlockError) -> Range<Int> {
        let length = try node.length()
        let (begin, tooFar) = operands.skip.multipliedReportingOverflow(by: operands.blockBytes)
        var end = length
        if let count = operands.count {
            let (wanted, overflow) = count.multipliedReportingOverflow(by: operands.blockBytes)
            let (limit, past) = wanted.addingReportingOverflow(begin)
            if !overflow && !past { end = min(length, limit) }
        }
        guard !tooFar, begin <= length else {
            context.complain("\(operands.input ?? ""): cannot skip to specified offset")
            return 0..<0
        }
        return begin..<max(begin, end)
    }

    private func copy(_ node: BlockNode, _ range: Range<Int>, to output: String, _ context: CommandContext)
        throws
    {
        let creator = try creating(output) { () throws(BlockError) in
            var creator = try ImageCreator(
                context, filename: output, format: outputFormat, text: CreateOptionText())
            creator.isQuiet = true
            creator.readFiles = [node].fileIdentities
            try creator.options.set(.size, to: String(range.count))
            return creator
        }
        do {
            try ProgressReporter(context, isShown: false).reporting { control in
                _ = try creating(output) { () throws(BlockError) in try creator.create() }
                let settings = OpenSettings(readOnly: false, withoutBacking: true)
                let image = ImageName(output, format: outputFormat)
                let target = try creator.context.open(image, settings: settings)
                try context.closing(target) { target in
                    try transfer(node, range, to: target, control)
                    try target.flush()
                }
            }
        } catch {
            creator.discard()
            throw error
        }
        try creator.finish()
    }

    private func creating<Result>(
        _ output: String, _ body: () throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        do throws(BlockError) { return try body() } catch {
            throw error.kind == .unsupported
                ? error : error.prefixed("\(output): error while creating output image")
        }
    }

    private func transfer(
        _ node: BlockNode, _ range: Range<Int>, to target: BlockNode, _ control: JobControl
    ) throws(BlockError) {
        let buffer = AlignedBuffer(count: Self.pieceBytes)
        let startsAsZero = target.startsAsZero
        var offset = range.lowerBound
        while offset < range.upperBound {
            try control.checkpoint(moving: 0)
            let run = try node.status(at: offset, limit: range.upperBound - offset)
            guard !run.isZero else {
                // A device keeps its old bytes where nothing is written.
                if !startsAsZero {
                    try target.writeZeroes(at: offset - range.lowerBound, count: run.length)
                }
                offset += run.length
                continue
            }
            let count = min(run.length, Self.pieceBytes)
            var span = buffer.mutableBytes(0..<count)
            do throws(BlockError) { try node.read(into: &span, at: offset) } catch {
                throw error.kind == .corrupt
                    ? error : error.prefixed("error while reading from input image file")
            }
            try target.write(buffer.bytes(0..<count), at: offset - range.lowerBound)
            offset += count
        }
    }
}

/// The operands `name=value`.
private struct DdOperands {
    var input: String?
    var output: String?
    var blockBytes = 512
    var count: Int?
    var skip = 0

    init(_ operands: [String]) throws(CommandFailure) {
        for operand in operands {
            let scalars = operand.unicodeScalars
            let end = scalars.firstIndex(of: "=")
            let name = String(scalars[..<(end ?? scalars.endIndex)])
            guard let end else { throw Self.unknown(name) }
            try take(name, String(scalars[scalars.index(after: end)...]))
        }
    }

    private mutating func take(_ name: String, _ value: String) throws(CommandFailure) {
        switch name {
        case "if": input = value
        case "of": output = value
        case "bs": blockBytes = try SizeArgument.parse(value, what: "bs", minimum: 1, maximum: Int(Int32.max))
        case "count": count = try SizeArgument.parse(value, what: "count")
        case "skip": skip = try SizeArgument.parse(value, what: "skip")
        default: throw Self.unknown(name)
        }
    }

    private static func unknown(_ name: String) -> CommandFailure {
        CommandFailure("unrecognized operand \(name)")
    }
}
