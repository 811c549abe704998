import BlockCore

/// `map`: lists where the bytes of a disk are stored.
struct MapCommand: ImageCommand {
    static let spec = CommandSpec(
        "map", "Tell which parts of a disk are data, zeroes or not there, and where they are stored",
        operands: "FILE",
        options: table,
        notes: [
            "The text for people lists stored data only, and fails where data is compressed or encrypted; "
                + "JSON lists everything. 'depth' counts the layers of the backing chain from 0 for FILE "
                + "itself."
        ])

    private let source: SourceOptions
    private let startOffset: String?
    private let maxLength: String?
    private let output: String?
    private let forceShare: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        startOffset = options.value("s", "start-offset", "OFFSET", "Begin here")
        maxLength = options.value("l", "max-length", "LENGTH", "Tell of at most so many bytes")
        output = options.output()
        forceShare = options.forceShare()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        let start = try startOffset.map { text throws(CommandFailure) in
            try SizeArgument.parse(text, what: "start offset")
        }
        let limit = try maxLength.map { text throws(CommandFailure) in
            try SizeArgument.parse(text, what: "max length")
        }
        let image = try ImageName(try context.oneFile(operands), source)
        let node = try context.open(image, settings: OpenSettings(forceShare: forceShare))
        return try context.closing(node) { node in
            let printer = MapPrinter(output, context.terminal)
            let begin = start ?? 0
            let end = min(
                try node.length(),
                begin.addingReportingOverflow(limit ?? .max).overflow
                    ? .max : begin + (limit ?? .max - begin))
            if try walk(node, from: begin, to: end, printer) { throw Self.loss(in: node) }
            return 0
        }
    }

    /// The error for an image that lacks data: a program that copies by the map has to learn of it.
    private static func loss(in node: BlockNode) -> BlockError {
        for layer in node.chain {
            if let error = try? layer.findCut() { return error.concerning(layer.filename) }
        }
        return BlockError(.corrupt, "A file of the image is cut short", path: node.filename)
    }

    /// Whether a run is encoded data of which a part is missing in the file.
    private func isLost(_ run: ChainStatus, at offset: Int, _ chain: [BlockNode]) throws -> Bool {
        guard run.isData, run.hostOffset == nil, chain.indices.contains(run.depth) else { return false }
        return try chain[run.depth].lacksEncoded(at: offset, count: run.length)
    }

    /// Prints the runs of a range, adjacent ones of one kind as one.
    ///
    /// - Returns: whether data of some runs is missing.
    private func walk(
        _ node: BlockNode, from begin: Int, to end: Int, _ printer: MapPrinter
    ) throws -> Bool {
        var hasLoss = false
        let chain = node.chain
        var current: ChainStatus?
        var start = begin
        var offset = begin
        while offset < end {
            var next: ChainStatus
            do throws(BlockError) {
                next = try node.status(at: offset, limit: end - offset, isForMap: true)
            } catch {
                try printer.stop(current, at: start)
                throw error.kind == .corrupt ? error : error.prefixed("Could not read file metadata")
            }
            if next.isPastBacking { next.isPresent = false }
            next.isPastBacking = false
            hasLoss = try hasLoss || next.isLost || isLost(next, at: offset, chain)
            if var run = current, run.continues(into: next) {
                run.length += next.length
                current = run
            } else {
                if let run = current { try printer.add(run, at: start) }
                current = next
                start = offset
            }
            offset += next.length
        }
        try printer.finish(current, at: start)
        return hasLoss
    }
}

/// Prints runs through a buffer, which is written in large pieces.
private final class MapPrinter {
    private let output: OutputFormat
    private let terminal: Terminal
    private var buffer: [UInt8] = []
    private var count = 0

    private static let pieceBytes = Int.kib(256)
    private static let columnBytes = 16

    init(_ output: OutputFormat, _ terminal: Terminal) {
        self.output = output
        self.terminal = terminal
        switch output {
        case .json: append("[")
        case .human: append("Offset          Length          Mapped to       File\n")
        }
    }

    func add(_ run: ChainStatus, at start: Int) throws(CommandFailure) {
        switch output {
        case .json: addJSON(run, start)
        case .human: try addLine(run, start)
        }
        if buffer.count >= Self.pieceBytes { drain() }
    }

    /// Prints the last run, and the end. For an empty range `run` is `nil`, and JSON has one entry of length
    /// 0.
    func finish(_ run: ChainStatus?, at start: Int) throws(CommandFailure) {
        if let run {
            try add(run, at: start)
        } else if case .json = output {
            addJSON(ChainStatus(length: 0, isZero: false, isData: false, isPresent: false, depth: 0), start)
        }
        if case .json = output { append("]\n") }
        drain()
    }

    /// Prints the runs found before an error.
    func stop(_ run: ChainStatus?, at start: Int) throws(CommandFailure) {
        if let run { try add(run, at: start) }
        drain()
    }

    private func addLine(_ run: ChainStatus, _ start: Int) throws(CommandFailure) {
        guard run.isData && !run.isZero else { return }
        guard let hostOffset = run.hostOffset, !run.isCompressed else {
            drain()
            throw CommandFailure("File contains external, encrypted or compressed clusters.")
        }
        appendColumn(start)
        appendColumn(run.length)
        appendColumn(hostOffset)
        append(PrintableText.shown(run.holder?.shownName ?? ""))
        append("\n")
    }

    private func addJSON(_ run: ChainStatus, _ start: Int) {
        if count > 0 { append(",\n") }
        count += 1
        append("{ \"start\": ")
        append(start)
        append(", \"length\": ")
        append(run.length)
        append(", \"depth\": ")
        append(run.depth)
        append(run.isPresent ? ", \"present\": true" : ", \"present\": false")
        append(run.isZero ? ", \"zero\": true" : ", \"zero\": false")
        append(run.isData ? ", \"data\": true" : ", \"data\": false")
        append(run.isCompressed ? ", \"compressed\": true" : ", \"compressed\": false")
        if let hostOffset = run.hostOffset {
            append(", \"offset\": ")
            append(hostOffset)
        }
        append("}")
    }

    private func append(_ text: StaticString) {
        buffer.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private func append(_ text: String) { buffer.append(contentsOf: text.rawBytes) }

    /// Appends digits without a string for every number, which took most of the time on a fragmented image.
    private func append(_ number: Int, radix: Int = 10) {
        if radix == 10 { appendDigits(number.magnitude) { $0.quotientAndRemainder(dividingBy: 10) } }
        if radix == 16 { appendDigits(number.magnitude) { ($0 >> 4, $0 & 15) } }
    }

    /// A division by a constant costs a fraction of one by a variable.
    @inline(__always)
    private func appendDigits(_ number: UInt, _ divide: (UInt) -> (quotient: UInt, remainder: UInt)) {
        var rest = number
        var digits = InlineArray<20, UInt8>(repeating: 0)
        var first = digits.count
        repeat {
            let (quotient, digit) = divide(rest)
            first -= 1
            digits[first] = UInt8(truncatingIfNeeded: digit < 10 ? 0x30 + digit : 0x57 + digit)
            rest = quotient
        } while rest > 0
        for index in first..<digits.count { buffer.append(digits[index]) }
    }

    /// A hexadecimal number, 0 without prefix, and spaces up to the next column.
    private func appendColumn(_ number: Int) {
        let first = buffer.count
        if number != 0 { append("0x") }
        append(number, radix: 16)
        while buffer.count < first + Self.columnBytes { buffer.append(0x20) }
    }

    private func drain() {
        terminal.print(buffer)
        buffer.removeAll(keepingCapacity: true)
    }
}
