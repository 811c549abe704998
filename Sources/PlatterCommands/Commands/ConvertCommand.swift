import ArgumentParser
import BlockCore
import BlockFormats
import BlockJobs

/// `convert`: copies disks into an image of another format.
struct ConvertCommand: ImageCommand {
    static let spec = CommandSpec(
        "convert", "Copy a disk into an image of another format", operands: "SOURCE... TARGET",
        options: [
            OptionSpec("f", "source-format", "FMT", "Format of the sources; without it, it is guessed"),
            .imageOpts, .cache("T", "source-cache", of: "the sources"),
            OptionSpec("l", "snapshot", "SNAPSHOT", "Read this snapshot inside the source"),
            OptionSpec(nil, "bitmaps", nil, "Copy the source's bitmaps too"),
            OptionSpec(nil, "skip-broken-bitmaps", nil, "Leave out those that are inconsistent"),
            OptionSpec(nil, "salvage", nil, "Write zeroes where the source cannot be read"),
            OptionSpec("O", "target-format", "FMT", "Format of TARGET (default: raw)"),
            OptionSpec(nil, "target-image-opts", nil, "TARGET is a list of open options; needs -n"),
            OptionSpec(
                "o", "target-format-options", "K=V,...", "Options for making TARGET; 'help' lists them"),
            .cache("t", "target-cache", of: "TARGET (default: unsafe)"),
            OptionSpec(
                "b", "backing", "FILE",
                "Make an overlay of FILE, which has what the source's backing file has",
                olderShorts: ["B"]),
            OptionSpec("F", "backing-format", "FMT", "Format of that backing file"),
            OptionSpec(
                "S", "sparse-size", "SIZE", "Zeroes in a row that become a hole (default: 4k; 0: none)"),
            OptionSpec("n", "no-create", nil, "Write into a TARGET that is there already"),
            OptionSpec(nil, "target-is-zero", nil, "TARGET reads as zeroes; needs -n"),
            OptionSpec("c", "compress", nil, "Store compressed"),
            .forceShare,
            OptionSpec("r", "rate-limit", "RATE", "Copy at most so many bytes a second"),
            OptionSpec("m", "parallel", "N", "Work on so many pieces at once (1 to 16)"),
            OptionSpec("C", "copy-range-offloading", nil, "Let the host copy from file to file where it can"),
            OptionSpec("W", "oob-writes", nil, "Write pieces in the order in which they are ready"),
            .progress, .quiet,
        ],
        notes: [
            "Several sources become one disk, one after the other. SOURCE may be '-' for standard input with "
                + "'-f raw', TARGET '-' for standard output with '-O raw' or a format that is written from "
                + "front to back, such as a compressed stream.",
            "TARGET gets its name when it is whole; until then it is 'TARGET.….platter-partial', which is "
                + "removed when the command fails or is interrupted.",
        ])
    @Option var sourceFormat: String?
    @Flag var imageOpts = false
    @Option var sourceCache: String?
    @Option var snapshot: String?
    @Flag var bitmaps = false
    @Flag var skipBrokenBitmaps = false
    @Flag var salvage = false
    @Option var targetFormat: String?
    @Flag var targetImageOpts = false
    @Option var targetFormatOptions: [String] = []
    @Option var targetCache: String?
    @Option var backing: String?
    @Option var backingFormat: String?
    @Option var sparseSize: String?
    @Flag var noCreate = false
    @Flag var targetIsZero = false
    @Flag var compress = false
    @Flag var forceShare = false
    @Option var rateLimit: String?
    @Option var parallel: String?
    @Flag var copyRangeOffloading = false
    @Flag var oobWrites = false
    @Flag var progress = false
    @Flag var quiet = false
    @Argument var operands: [String] = []

    private static let sectorBytes = 512
    private static let maximumSparseBytes = 16 << 20
    private static let defaultSparseBytes = 4096

    func run(_ context: CommandContext) throws -> Int32 {
        let text = try CreateOptionText(targetFormatOptions)
        let format = targetFormat ?? StandardFormats.defaultName
        if text.asksForHelp {
            let filename = operands.count > 1 ? operands.last : nil
            context.terminal.print(try context.createOptionHelp(format: format, filename: filename))
            return 0
        }
        let options = try jobOptions()
        let rate = try rateLimit.map { try SizeArgument.parse($0, what: "rate limit") } ?? 0
        try checkCombinations()
        guard operands.count > 1, let name = operands.last else {
            throw CommandFailure("Must specify image file name")
        }
        let overlaid = try backing ?? text.value(of: .backingFile)
        let target = ConvertTarget(
            context: context, name: name, format: format, text: text, backing: overlaid,
            backingFormat: backingFormat, cache: try targetCacheMode(context), exists: noCreate,
            isOptions: targetImageOpts, isKnownZero: targetIsZero, compresses: compress,
            isQuiet: quiet)
        try target.checkFormat()
        let sources = try ConvertSources.open(Array(operands.dropLast()), sourceOptions(context), context)
        defer { sources.forEach { try? $0.close() } }
        if bitmaps { try checkBitmaps(sources, target) }
        try convert(sources, to: target, options, rate, context)
        return 0
    }

    private func convert(
        _ sources: [BlockNode], to target: ConvertTarget, _ options: ConvertJob.Options, _ rate: Int,
        _ context: CommandContext
    ) throws {
        if target.backing?.isEmpty == false, sources.count > 1 {
            throw CommandFailure(
                "Having a backing file for the target makes no sense when concatenating multiple input images"
            )
        }
        // Where the disk itself goes to standard output, progress may not.
        let isLine = context.terminal.errorIsTerminal && !context.isCalledAsQemu
        let isShown = progress && !quiet && (!target.isStandardOutput || isLine)
        let reporter = ProgressReporter(context, isShown: isShown, bytesPerSecond: rate)
        try reporter.reporting { control in
            var options = options
            options.measuresFirst = isShown
            if salvage {
                options.onUnreadable = unreadableReport(context)
                options.onUnmapped = unmappedReport(context)
            }
            try target.filled(from: sources) { node, filling in
                options.targetIsZero = filling.startsAsZero
                options.targetIsNew = !target.exists
                // What is there already may have space reserved that sharing would give up.
                let reservesSpace = target.exists ? true : try target.reservesSpace()
                options.sharesSpace = sparseSize == nil && (copyRangeOffloading || !reservesSpace)
                options.skipsBacking = filling.isOverNamedBacking
                options.isStream = filling.isPlainStream
                options.isOrdered = filling.isOrdered
                let copier = bitmaps ? try bitmapCopier(sources[0], node, context) : nil
                try ConvertJob(sources: sources, target: node, options: options).run(control)
                try copier?.copy()
            }
        }
    }

    /// What can be said against copying bitmaps before the target is made.
    private func checkBitmaps(_ sources: [BlockNode], _ target: ConvertTarget) throws(CommandFailure) {
        guard sources.count == 1 else {
            throw CommandFailure("Copying bitmaps only possible with single source")
        }
        guard let source = sources[0].format?.asBitmapCapable, source.bitmapObstacle == nil else {
            throw CommandFailure("Source lacks bitmap support")
        }
        guard target.mayKeepBitmaps else {
            throw CommandFailure("Format driver '\(target.format)' does not support bitmaps")
        }
    }

    private func bitmapCopier(
        _ source: BlockNode, _ target: BlockNode, _ context: CommandContext
    ) throws -> BitmapCopier {
        try BitmapCopier(
            from: source, to: target, skipsBroken: skipBrokenBitmaps,
            warn: { if !quiet { context.warn($0) } })
    }

    private func jobOptions() throws(CommandFailure) -> ConvertJob.Options {
        var options = ConvertJob.Options()
        options.outOfOrder = oobWrites
        options.compress = compress
        options.offload = copyRangeOffloading
        options.sparseBytes = try sparseBytes()
        if let parallel {
            guard let count = Int(parallel), (1...ConvertJob.maximumWorkers).contains(count) else {
                throw CommandFailure(
                    "Invalid number of coroutines. Allowed number of coroutines is between 1 and "
                        + "\(ConvertJob.maximumWorkers)")
            }
            options.workers = count
        }
        return options
    }

    private func sparseBytes() throws(CommandFailure) -> Int {
        guard let sparseSize else { return Self.defaultSparseBytes }
        let size = try SizeArgument.parse(sparseSize, what: "buffer size for sparse output")
        guard size % Self.sectorBytes == 0, size <= Self.maximumSparseBytes else {
            throw CommandFailure(
                "Invalid buffer size for sparse output specified. Valid sizes are multiples of "
                    + "\(Self.sectorBytes) up to \(Self.maximumSparseBytes). Select 0 to disable sparse "
                    + "detection (fully allocates output).")
        }
        return size
    }

    private func checkCombinations() throws(CommandFailure) {
        if skipBrokenBitmaps && !bitmaps {
            throw CommandFailure("Use of --skip-broken-bitmaps requires --bitmaps")
        }
        if imageOpts && sourceFormat != nil || targetImageOpts && targetFormat != nil {
            throw CommandFailure("--image-opts and --format are mutually exclusive")
        }
        if noCreate && !targetFormatOptions.isEmpty {
            throw CommandFailure("-o has no effect when skipping image creation")
        }
        if targetImageOpts && !noCreate {
            throw CommandFailure("--target-image-opts requires use of -n flag")
        }
        if targetIsZero && !noCreate { throw CommandFailure("--target-is-zero requires use of -n flag") }
        if targetIsZero && backing != nil {
            throw CommandFailure("Cannot use --target-is-zero when the destination image has a backing file")
        }
        if copyRangeOffloading && compress {
            throw CommandFailure("Cannot enable copy offloading when -c is used")
        }
        if copyRangeOffloading && sparseSize != nil {
            throw CommandFailure("Cannot enable copy offloading when -S is used")
        }
    }

    private func targetCacheMode(_ context: CommandContext) throws -> CacheMode {
        try context.cacheMode(targetCache ?? "unsafe")
    }

    private func sourceOptions(_ context: CommandContext) throws -> ConvertSources.Options {
        var settings = OpenSettings(
            cache: try context.cacheMode(sourceCache, what: "source "), forceShare: forceShare)
        settings.excludesWriters = true
        return ConvertSources.Options(
            format: sourceFormat, isOptions: imageOpts, snapshot: snapshot, settings: settings)
    }

    private func unreadableReport(
        _ context: CommandContext
    ) -> @Sendable (Range<Int>, BlockError) -> Void {
        let quiet = quiet
        return { range, error in
            guard !quiet else { return }
            let isSector = range.count == Self.sectorBytes
            context.warn(
                "error while reading offset \(range.lowerBound): \(error.message)"
                    + (isSector ? "" : "; \(range.count) bytes are taken as zeroes"))
        }
    }

    private func unmappedReport(_ context: CommandContext) -> @Sendable (Int, BlockError) -> Void {
        let quiet = quiet
        return { offset, error in
            guard !quiet else { return }
            context.warn("error while reading block status at offset \(offset): \(error.message)")
        }
    }
}
