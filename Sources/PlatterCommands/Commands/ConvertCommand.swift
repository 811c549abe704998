import BlockCore
import BlockFormats
import BlockJobs

/// `convert`: copies disks into an image of another format.
struct ConvertCommand: ImageCommand {
    static let spec = CommandSpec(
        "convert", "Copy a disk into an image of another format", operands: "SOURCE... TARGET",
        options: table,
        notes: [
            "Several sources become one disk, one after the other. SOURCE may be '-' for standard input with "
                + "'-f raw', TARGET '-' for standard output with '-O raw' or a format that is written from "
                + "front to back, such as a compressed stream.",
            "TARGET gets its name when it is whole; until then it is 'TARGET.….platter-partial', which is "
                + "removed when the command fails or is interrupted.",
        ])

    private let options: ConvertOptions

    init(_ options: inout OptionReader) { self.options = ConvertOptions(&options) }

    func run(_ context: CommandContext) throws -> Int32 {
        let text = try CreateOptionText(options.targetFormatOptions)
        if text.asksForHelp {
            let filename = options.operands.count > 1 ? options.operands.last : nil
            context.terminal.print(
                try context.createOptionHelp(format: options.format, filename: filename))
            return 0
        }
        let jobOptions = try options.jobOptions()
        let rate = try options.bytesPerSecond()
        try options.checkCombinations()
        guard options.operands.count > 1, let name = options.operands.last else {
            throw CommandFailure("Must specify image file name")
        }
        let target = try ConvertTarget(name, options, text, context)
        try target.checkFormat()
        let sources = try ConvertSources.open(options, context)
        defer { sources.forEach { try? $0.close() } }
        if options.bitmaps { try checkBitmaps(sources, target) }
        if target.backing?.isEmpty == false, sources.count > 1 {
            throw CommandFailure(
                "Having a backing file for the target makes no sense when concatenating multiple input images"
            )
        }
        let isShown = showsProgress(target, context)
        let reporter = ProgressReporter(context, isShown: isShown, bytesPerSecond: rate)
        try reporter.reporting { control in
            var jobOptions = jobOptions
            jobOptions.measuresFirst = isShown
            try fill(target, from: sources, jobOptions, control)
        }
        return 0
    }

    /// Whether progress is shown. It is not printed between the bytes of a disk on standard output.
    private func showsProgress(_ target: ConvertTarget, _ context: CommandContext) -> Bool {
        let isLine = context.terminal.errorIsTerminal && !context.isCalledAsQemu
        return options.progress && !options.quiet && (!target.isStandardOutput || isLine)
    }

    /// Copies the sources, and their bitmaps where that is asked for, into the target.
    private func fill(
        _ target: ConvertTarget, from sources: [BlockNode], _ jobOptions: ConvertJob.Options,
        _ control: JobControl
    ) throws {
        var jobOptions = jobOptions
        if options.salvage { report(to: target.context, &jobOptions) }
        try target.filled(from: sources) { node, filling in
            jobOptions.targetIsZero = filling.startsAsZero
            jobOptions.targetIsNew = !options.noCreate
            // An existing target may have space reserved that sharing would give up.
            let reservesSpace = options.noCreate ? true : try target.reservesSpace()
            jobOptions.sharesSpace =
                options.sparseSize == nil && (options.copyRangeOffloading || !reservesSpace)
            jobOptions.skipsBacking = filling.isOverNamedBacking
            jobOptions.isStream = filling.isPlainStream
            jobOptions.isOrdered = filling.isOrdered
            let copier = options.bitmaps ? try bitmapCopier(sources[0], node, target.context) : nil
            let job = ConvertJob(sources: sources, target: node, options: jobOptions)
            try JobEngine().run(job, control)
            try copier?.copy()
        }
    }

    /// Refuses to copy bitmaps, before the target is made, where source or target cannot have them.
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
            from: source, to: target, skipsBroken: options.skipBrokenBitmaps,
            warn: { if !options.quiet { context.warn($0) } })
    }

    /// Makes the job go on past read errors, and warn about them.
    private func report(to context: CommandContext, _ jobOptions: inout ConvertJob.Options) {
        let quiet = options.quiet
        jobOptions.onUnreadable = { range, error in
            guard !quiet else { return }
            let isSector = range.count == ConvertOptions.sectorBytes
            context.warn(
                "error while reading offset \(range.lowerBound): \(error.message)"
                    + (isSector ? "" : "; \(range.count) bytes are taken as zeroes"))
        }
        jobOptions.onUnmapped = { offset, error in
            guard !quiet else { return }
            context.warn("error while reading block status at offset \(offset): \(error.message)")
        }
    }
}
