import BlockCore
import BlockJobs

/// `commit`: writes what an overlay holds into its backing file.
struct CommitCommand: ImageCommand {
    static let spec = CommandSpec(
        "commit", "Write what an overlay holds into its backing file", operands: "FILE",
        options: table,
        notes: [
            "A backing file that is smaller than FILE grows. With -b, the images between BASE and FILE take "
                + "part; they and other overlays of BASE mean something else afterwards."
        ])

    private let source: SourceOptions
    private let cache: String?
    private let drop: Bool
    private let base: String?
    private let rateLimit: String?
    private let progress: Bool
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        cache = options.cache("t", of: "the images")
        drop = options.flag("d", "drop", "Leave FILE as it is instead of emptying it")
        base = options.value(
            "b", "base", "BASE", "Write into this image of the backing chain; FILE is not emptied")
        rateLimit = options.rateLimit()
        progress = options.progress()
        quiet = options.quiet()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let rate = try rateLimit.map { try SizeArgument.parse($0, what: "rate limit") } ?? 0
        let image = try ImageName(try context.oneFile(operands), source)
        let settings = OpenSettings(readOnly: false, cache: try context.cacheMode(cache))
        context.allow(base, of: image.text, orFromHere: true)
        return try context.closing(try context.open(image, settings: settings)) { node in
            let target = try base.map { try ChainLookup.node(named: $0, below: node) }
            let job = CommitJob(top: node, base: target, emptiesTop: !drop && target == nil)
            let reporter = ProgressReporter(context, isShown: progress && !quiet, bytesPerSecond: rate)
            try reporter.run(job)
            if !quiet { context.remark("Image committed.") }
            return 0
        }
    }
}
