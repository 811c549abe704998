import BlockCore
import BlockJobs
import BlockProtocols

/// `stream`: copies data from the backing chain of an image into it.
struct StreamCommand: ImageCommand {
    static let spec = CommandSpec(
        "stream", "Copy into an image what it lacks from its backing chain", operands: "FILE",
        options: table,
        notes: [
            "Without BASE, FILE has no backing file afterwards. The reference changes last: stopped, FILE "
                + "shows the same disk as before, and the command goes on where it was when it is run "
                + "again."
        ])

    private let base: String?
    private let baseName: String?
    private let rateLimit: String?
    private let source: SourceOptions
    private let options: [String]
    private let cache: String?
    private let progress: Bool
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        base = options.value(
            "b", "base", "BASE", "Stop above this image of the chain, the new backing file")
        baseName = options.value("B", "base-name", "STRING", "Store this as the backing file's name")
        rateLimit = options.rateLimit()
        source = SourceOptions(&options)
        self.options = options.values("o", "options", "K=V,...", "Open options of FILE")
        cache = options.cache("t", of: "FILE")
        progress = options.progress()
        quiet = options.quiet()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let rate = try rateLimit.map { try SizeArgument.parse($0, what: "rate limit") } ?? 0
        let image = try ImageName(try context.oneFile(operands), source)
        if baseName != nil, base == nil {
            throw CommandFailure("--base-name requires --base")
        }
        context.allow(base, of: image.text, orFromHere: true)
        return try context.closing(try open(image, context)) { node in
            let below = try base.map { try ChainLookup.node(named: $0, below: node) }
            let job = StreamJob(node: node, base: below, baseName: try name(of: below, for: node))
            let reporter = ProgressReporter(context, isShown: progress && !quiet, bytesPerSecond: rate)
            try reporter.run(job)
            return 0
        }
    }

    private func open(_ image: ImageName, _ context: CommandContext) throws -> BlockNode {
        let settings = OpenSettings(readOnly: false, cache: try context.cacheMode(cache))
        guard !options.isEmpty else { return try context.open(image, settings: settings) }
        var image = image
        var tree = OptionTree()
        for list in options {
            for (key, value) in try OptionList.parse(list) { tree[key] = value }
        }
        image.openOptions = tree
        return try context.open(image, settings: settings)
    }

    /// The name of the base to store, where the job would not find one that names the same file from the
    /// folder of the image.
    private func name(of base: BlockNode?, for node: BlockNode) throws -> String? {
        guard let base, baseName == nil else { return baseName }
        let chain = node.chain
        guard let index = chain.firstIndex(where: { $0 === base }), index > 0,
            let stated = chain[index - 1].unfiltered.format?.backing?.filename,
            let path = HostPath.canonical(base.filename)
        else { return nil }
        let found = HostPath.canonical(FileNames.resolve(stated, relativeTo: node.filename))
        return found == path ? stated : path
    }
}
