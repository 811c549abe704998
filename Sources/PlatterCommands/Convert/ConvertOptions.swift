import BlockCore
import BlockFormats
import BlockJobs

/// The command line of `convert`, as one value that sources, target and job share.
struct ConvertOptions {
    // MARK: The sources

    let sourceFormat: String?
    /// Whether the sources' names are lists of open options.
    let imageOpts: Bool
    let sourceCache: String?
    /// A snapshot inside the source: an id or a name, or `snapshot.id=…,snapshot.name=…`.
    let snapshot: String?
    let bitmaps: Bool
    let skipBrokenBitmaps: Bool
    let salvage: Bool
    let forceShare: Bool

    // MARK: The target

    let targetFormat: String?
    /// Whether the target's name is a list of open options.
    let targetImageOpts: Bool
    let targetFormatOptions: [String]
    let targetCache: String?
    let backing: String?
    let backingFormat: String?
    /// Whether the target already exists.
    let noCreate: Bool
    /// Whether the user guarantees that the target reads as zeroes.
    let targetIsZero: Bool

    // MARK: The job

    let sparseSize: String?
    let compress: Bool
    let rateLimit: String?
    let parallel: String?
    let copyRangeOffloading: Bool
    let oobWrites: Bool
    let progress: Bool
    let quiet: Bool

    /// The names of the sources, and the target's name last.
    let operands: [String]

    static let sectorBytes = 512
    private static let maximumSparseBytes = Int.mib(16)
    private static let defaultSparseBytes = Int.kib(4)

    init(_ options: inout OptionReader) {
        sourceFormat = options.value(
            "f", "source-format", "FMT", "Format of the sources; without it, it is guessed")
        imageOpts = options.imageOpts()
        sourceCache = options.cache("T", "source-cache", of: "the sources")
        snapshot = options.value("l", "snapshot", "SNAPSHOT", "Read this snapshot inside the source")
        bitmaps = options.flag(nil, "bitmaps", "Copy the source's bitmaps too")
        skipBrokenBitmaps = options.flag(nil, "skip-broken-bitmaps", "Leave out those that are inconsistent")
        salvage = options.flag(nil, "salvage", "Write zeroes where the source cannot be read")
        targetFormat = options.value("O", "target-format", "FMT", "Format of TARGET (default: raw)")
        targetImageOpts = options.flag(
            nil, "target-image-opts", "TARGET is a list of open options; needs -n")
        targetFormatOptions = options.values(
            "o", "target-format-options", "K=V,...", "Options for making TARGET; 'help' lists them")
        targetCache = options.cache("t", "target-cache", of: "TARGET (default: unsafe)")
        backing = options.value(
            "b", "backing", "FILE", "Make an overlay of FILE, which has what the source's backing file has",
            olderShorts: ["B"])
        backingFormat = options.value("F", "backing-format", "FMT", "Format of that backing file")
        sparseSize = options.value(
            "S", "sparse-size", "SIZE", "Zeroes in a row that become a hole (default: 4k; 0: none)")
        noCreate = options.flag("n", "no-create", "Write into a TARGET that is there already")
        targetIsZero = options.flag(nil, "target-is-zero", "TARGET reads as zeroes; needs -n")
        compress = options.flag("c", "compress", "Store compressed")
        forceShare = options.forceShare()
        rateLimit = options.rateLimit("Copy")
        parallel = options.value("m", "parallel", "N", "Work on so many pieces at once (1 to 16)")
        copyRangeOffloading = options.flag(
            "C", "copy-range-offloading", "Let the host copy from file to file where it can")
        oobWrites = options.flag("W", "oob-writes", "Write pieces in the order in which they are ready")
        progress = options.progress()
        quiet = options.quiet()
        operands = options.operands
    }
}

// MARK: Checked values

extension ConvertOptions {
    /// The target's format, which may be the default.
    var format: String { targetFormat ?? StandardFormats.defaultName }

    /// The options of the job that the command line alone decides.
    ///
    /// - Throws: for numbers that are out of range.
    func jobOptions() throws(CommandFailure) -> ConvertJob.Options {
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

    /// The job's speed limit in bytes a second; 0 for none.
    func bytesPerSecond() throws(CommandFailure) -> Int {
        guard let rateLimit else { return 0 }
        return try SizeArgument.parse(rateLimit, what: "rate limit")
    }

    /// - Throws: for options that contradict each other or need another one.
    func checkCombinations() throws(CommandFailure) {
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
}
