import BlockCore
import BlockJobs

/// `compare`: compares the contents of two disks.
struct CompareCommand: ImageCommand {
    static let spec: CommandSpec = {
        var spec = CommandSpec(
            "compare", "Tell whether two images hold the same disk", operands: "FILE1 FILE2",
            options: table,
            notes: [
                "Where one disk is longer, the rest must read as zeroes. --output=json is Platter's own: an "
                    + "object with 'identical', and 'reason' and 'offset' of the first difference."
            ])
        spec.statuses = [
            (0, "the images are identical"), (1, "they differ"),
            (2, "an image could not be opened, or the command was called wrongly"),
            (3, "a map could not be read"),
            (4, "data could not be read"),
        ]
        spec.errorStatus = 2
        return spec
    }()

    private let aFormat: String?
    private let bFormat: String?
    private let imageOpts: Bool
    private let strict: Bool
    private let cache: String?
    private let forceShare: Bool
    private let progress: Bool
    private let quiet: Bool
    private let output: String?
    private let operands: [String]

    init(_ options: inout OptionReader) {
        aFormat = options.value("f", "a-format", "FMT", "Format of the first image")
        bFormat = options.value("F", "b-format", "FMT", "Format of the second image")
        imageOpts = options.imageOpts()
        strict = options.flag("s", "strict", "Sizes and allocation must be the same too")
        cache = options.cache("T", of: "both images")
        forceShare = options.forceShare()
        progress = options.progress()
        quiet = options.quiet()
        output = options.output()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        guard operands.count == 2 else { throw CommandFailure.usage("Expecting two image file names") }
        if imageOpts && (aFormat ?? bFormat) != nil {
            throw CommandFailure("--image-opts and --format are mutually exclusive")
        }
        let cache = try context.cacheMode(cache, what: "source ")
        let settings = OpenSettings(cache: cache, forceShare: forceShare)
        let one = ImageName(operands[0], format: aFormat, isOptions: imageOpts)
        let two = ImageName(operands[1], format: bFormat, isOptions: imageOpts)
        return try context.closing(try context.open(one, settings: settings)) { first in
            try context.closing(try context.open(two, settings: settings)) { second in
                try compare(first, second, output, context)
            }
        }
    }

    private func compare(
        _ first: BlockNode, _ second: BlockNode, _ output: OutputFormat, _ context: CommandContext
    ) throws -> Int32 {
        let job = CompareJob(first, second, isStrict: strict)
        let isJSON = output == .json
        let reporter = ProgressReporter(context, isShown: progress && !quiet && !isJSON)
        do throws(BlockError) { try JobEngine().run(job, reporter.control) } catch {
            reporter.finish(succeeded: false)
            throw failure(error, job)
        }
        guard let outcome = job.outcome else { return 2 }
        let common = min(try first.length(), try second.length())
        let text = isJSON ? JSONWriter.text(outcome.json) : quiet ? "" : outcome.text(commonBytes: common)
        // The text is a remark, since scripts read the status; JSON is an answer.
        reporter.finish(succeeded: outcome.areIdentical, result: text, isAnswer: isJSON)
        return outcome.areIdentical ? 0 : 1
    }

    private func failure(_ error: BlockError, _ job: CompareJob) -> CommandFailure {
        guard let details = job.failureDetails, error.kind != .cancelled else { return CommandFailure(error) }
        let image = PrintableText.shown(operands[details.isOfFirst ? 0 : 1])
        let reason = details.error.message
        switch details.activity {
        case .reading:
            return CommandFailure(
                "Error while reading offset \(details.offset) of \(image): \(reason)", status: 4)
        case .asking:
            // An error without an errno means damage; qemu-img's message would not say so.
            let isDamaged = details.error.errno == nil
            return CommandFailure(
                "Sector allocation test failed for \(image)" + (isDamaged ? ": \(reason)" : ""), status: 3)
        }
    }
}

extension ComparisonOutcome {
    fileprivate var areIdentical: Bool {
        if case .identical = self { return true }
        return false
    }

    /// The lines for people. Different sizes are mentioned where the difference lies behind the shorter disk.
    fileprivate func text(commonBytes: Int) -> String {
        switch self {
        case .identical(let sizesDiffer): Self.warning(sizesDiffer) + "Images are identical.\n"
        case .contentDiffers(let offset, let sizesDiffer):
            Self.warning(sizesDiffer && offset >= commonBytes) + "Content mismatch at offset \(offset)!\n"
        case .sizeDiffers: "Strict mode: Image size mismatch!\n"
        case .statusDiffers(let offset): "Strict mode: Offset \(offset) block status mismatch!\n"
        }
    }

    fileprivate var json: InfoValue {
        var fields = [InfoField("identical", .flag(areIdentical))]
        switch self {
        case .identical(let sizesDiffer): fields.append(InfoField("sizes-differ", .flag(sizesDiffer)))
        case .contentDiffers(let offset, let sizesDiffer):
            fields += [
                InfoField("sizes-differ", .flag(sizesDiffer)), InfoField("reason", .text("content")),
                InfoField("offset", .number(offset)),
            ]
        case .sizeDiffers:
            fields += [InfoField("sizes-differ", .flag(true)), InfoField("reason", .text("size"))]
        case .statusDiffers(let offset):
            fields += [
                InfoField("sizes-differ", .flag(false)), InfoField("reason", .text("status")),
                InfoField("offset", .number(offset)),
            ]
        }
        return .object(fields)
    }

    private static func warning(_ sizesDiffer: Bool) -> String {
        sizesDiffer ? "Warning: Image size mismatch!\n" : ""
    }
}
