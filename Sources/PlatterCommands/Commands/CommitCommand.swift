import ArgumentParser
import BlockCore
import BlockJobs

/// `commit`: writes what an overlay holds into its backing file.
struct CommitCommand: ImageCommand {
    static let spec = CommandSpec(
        "commit", "Write what an overlay holds into its backing file", operands: "FILE",
        options: [
            .format(), .imageOpts, .cache("t", of: "the images"),
            OptionSpec("d", "drop", nil, "Leave FILE as it is instead of emptying it"),
            OptionSpec(
                "b", "base", "BASE", "Write into this image of the backing chain; FILE is not emptied"),
            OptionSpec("r", "rate-limit", "RATE", "Write at most so many bytes a second"),
            .progress, .quiet,
        ],
        notes: [
            "A backing file that is smaller than FILE grows. With -b, the images between BASE and FILE take "
                + "part; they and other overlays of BASE mean something else afterwards."
        ])

    @OptionGroup var source: SourceOptions
    @Option var cache: String?
    @Flag var drop = false
    @Option var base: String?
    @Option var rateLimit: String?
    @Flag var progress = false
    @Flag var quiet = false
    @Argument var operands: [String] = []

    func run(_ context: CommandContext) throws -> Int32 {
        let rate = try rateLimit.map { try SizeArgument.parse($0, what: "rate limit") } ?? 0
        let image = try ImageName(try context.oneFile(operands), source)
        let settings = OpenSettings(readOnly: false, cache: try context.cacheMode(cache))
        context.allow(base, of: image.text, orFromHere: true)
        return try context.closing(try context.open(image, settings: settings)) { node in
            let target = try base.map { try ChainLookup.node(named: $0, below: node) }
            let job = CommitJob(top: node, base: target, emptiesTop: !drop && target == nil)
            let reporter = ProgressReporter(context, isShown: progress && !quiet, bytesPerSecond: rate)
            try reporter.reporting { control in try job.run(control) }
            if !quiet { context.remark("Image committed.") }
            return 0
        }
    }
}
