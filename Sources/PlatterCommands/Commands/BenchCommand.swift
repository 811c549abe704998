import BlockCore
import BlockJobs

/// `bench`: times equal requests to an image.
struct BenchCommand: ImageCommand {
    static let spec = CommandSpec(
        "bench", "Time a row of equal requests to an image", operands: "FILE",
        options: table,
        notes: [
            "Requests that would start behind the end of the disk start over at its beginning. Each of the "
                + "requests under way has a thread of its own."
        ])

    private let source: SourceOptions
    private let cache: String?
    fileprivate let count: String
    fileprivate let depth: String
    fileprivate let offset: String
    fileprivate let bufferSize: String
    fileprivate let stepSize: String?
    fileprivate let write: Bool
    fileprivate let pattern: String?
    fileprivate let flushInterval: String?
    fileprivate let noDrain: Bool
    private let aio: String?
    private let native: Bool
    private let forceShare: Bool
    private let output: String?
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        cache = options.cache("t", of: "the image")
        count = options.value("c", "count", "COUNT", "How many requests (default: 75000)") ?? "75000"
        depth =
            options.value("d", "depth", "DEPTH", "How many requests are under way at once (default: 64)")
            ?? "64"
        offset =
            options.value("o", "offset", "OFFSET", "Where the first request starts (default: 0)") ?? "0"
        bufferSize =
            options.value("s", "buffer-size", "SIZE", "The size of a request (default: 4k)") ?? "4096"
        stepSize = options.value(
            "S", "step-size", "SIZE",
            "How far a request starts behind the one before it (default: the size of a request)")
        write = options.flag("w", "write", "Write rather than read: the image's contents are lost")
        pattern = options.value(nil, "pattern", "BYTE", "What is written (default: 0)")
        flushInterval = options.value(
            nil, "flush-interval", "COUNT", "Flush after so many writes (default: never)")
        noDrain = options.flag(nil, "no-drain", "Go on with writing during a flush")
        aio = options.aio()
        native = options.flag("n", "native", "The same as -i native")
        forceShare = options.forceShare()
        output = options.output()
        quiet = options.quiet("Print the result only")
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        var settings = OpenSettings(
            readOnly: !write, cache: try context.cacheMode(cache), forceShare: forceShare)
        settings.engine = try context.engine(aio, native: native)
        let image = try ImageName(try context.oneFile(operands), source)
        // Wrong numbers are refused before the image is opened.
        let numbers = try BenchNumbers(self)
        return try context.closing(try context.open(image, settings: settings)) { node in
            let job = numbers.job(node)
            if output == .human, !quiet { context.terminal.print(announcement(job)) }
            context.terminal.flush()
            let elapsed: Int
            do throws(BlockError) { elapsed = try job.run() } catch {
                throw error.prefixed("Failed request")
            }
            switch output {
            case .human:
                context.print(
                    "Run completed in \(HumanSize.formatted("%3.3f", Double(elapsed) / 1e9)) seconds.")
            case .json: context.terminal.print(JSONWriter.text(report(job, elapsed, settings)))
            }
            return 0
        }
    }

    private func announcement(_ job: BenchJob) -> String {
        var text =
            "Sending \(job.count) \(job.writes ? "write" : "read") requests, \(job.requestBytes) bytes each, "
            + "\(job.depth) in parallel (starting at offset \(job.offset), step size \(job.stepBytes))\n"
        if let interval = job.flushInterval {
            text += "Sending flush every \(interval) requests\n"
        }
        return text
    }

    private func report(_ job: BenchJob, _ elapsed: Int, _ settings: OpenSettings) -> InfoValue {
        let seconds = Double(max(elapsed, 1)) / 1e9
        func rate(_ amount: Int) -> InfoValue { .number(Int(min(Double(amount) / seconds, 1e18))) }
        var fields = [
            InfoField("write", .flag(job.writes)), InfoField("requests", .number(job.count)),
            InfoField("request-bytes", .number(job.requestBytes)), InfoField("depth", .number(job.depth)),
            InfoField("offset", .number(job.offset)), InfoField("step-bytes", .number(job.stepBytes)),
            InfoField("aio", .text(settings.engine.rawValue)),
            InfoField("cache", .text(settings.cache.rawValue)),
        ]
        if let interval = job.flushInterval {
            fields += [
                InfoField("flush-interval", .number(interval)), InfoField("drain", .flag(job.drains)),
            ]
        }
        fields += [
            InfoField("elapsed-ns", .number(elapsed)), InfoField("requests-per-second", rate(job.count)),
            InfoField(
                "bytes-per-second",
                rate(job.count.multipliedReportingOverflow(by: job.requestBytes).partialValue)),
        ]
        return .object(fields)
    }
}

/// The checked numbers of the command line.
private struct BenchNumbers {
    private var prototype: (BlockNode) -> BenchJob

    init(_ command: BenchCommand) throws(CommandFailure) {
        let largest = Int(Int32.max)
        let count = try SizeArgument.parse(command.count, what: "request count", maximum: largest)
        let depth = try SizeArgument.parse(
            command.depth, what: "queue depth", minimum: 1, maximum: Self.maximumDepth)
        let offset = try SizeArgument.parse(command.offset, what: "offset")
        let size = try SizeArgument.parse(
            command.bufferSize, what: "buffer size", minimum: 1, maximum: largest)
        var step = size
        if let text = command.stepSize {
            step = try SizeArgument.parse(text, what: "step size", maximum: largest)
            // As in qemu-img, 0 stands for the size of a request.
            if step == 0 { step = size }
        }
        let pattern = try command.pattern.map { text throws(CommandFailure) in
            try SizeArgument.parse(text, what: "pattern byte", maximum: 255)
        }
        let interval = try command.flushInterval.map { text throws(CommandFailure) in
            try SizeArgument.parse(text, what: "flush interval", maximum: largest)
        }
        if let interval, interval > 0 {
            guard command.write else {
                throw CommandFailure("--flush-interval is only available in write tests")
            }
            guard interval >= depth else {
                throw CommandFailure("Flush interval can't be smaller than depth")
            }
        }
        let (writes, drains) = (command.write, !command.noDrain)
        prototype = { node in
            var job = BenchJob(node)
            (job.count, job.depth, job.offset) = (count, depth, offset)
            (job.requestBytes, job.stepBytes) = (size, step)
            (job.writes, job.pattern) = (writes, UInt8(pattern ?? 0))
            job.flushInterval = interval == 0 ? nil : interval
            job.drains = drains
            return job
        }
    }

    /// The limit on requests under way, each of which has a thread.
    private static let maximumDepth = 1024

    func job(_ node: BlockNode) -> BenchJob { prototype(node) }
}
