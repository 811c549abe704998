import BlockCore

/// Copies one or several disks, one after the other, into a target that is there already.
///
/// What the sources know to be zero is never read, and zeroes become holes wherever the target can have them.
/// With ordered writes the layout of the target depends on the contents and the options alone, not on timing.
/// Nobody else may write to the nodes meanwhile.
public struct ConvertJob: BlockJob {
    public static let name = "convert"

    /// How to copy.
    public struct Options: Sendable {
        /// How many threads read and write; `nil` for as many as suit the work.
        public var workers: Int?
        /// Write in whatever order reading finishes; the layout of the target then varies.
        public var outOfOrder = false
        /// What is not written reads as zeroes.
        public var targetIsZero = false
        /// The target was made for this: nobody has put it over another backing file, and what reads as
        /// zeroes need not be marked as such.
        public var targetIsNew = false
        /// Leave out what the source has from its backing chain, as far as the target's backing chain gives
        /// it too. Where the chains have no file in common, the caller states that the target's backing node
        /// has the contents of the source's.
        public var skipsBacking = false
        /// Runs of zeroes inside data become holes from this many bytes on; 0 fully allocates the target.
        public var sparseBytes = 4096
        /// Store compressed.
        public var compress = false
        /// Let the system copy, where source and target both are plain bytes in files.
        public var offload = false
        /// Let the target share the space of the source's files where the file systems can. Zeroes are then
        /// not looked for inside data, and space that the target had reserved is given up for shared one.
        public var sharesSpace = false
        /// The target takes bytes only one after the other, zeroes too.
        public var isStream = false
        /// The target takes writes only in the order of the disk, whatever ``outOfOrder`` says.
        public var isOrdered = false
        /// Look at the whole map first, so that progress counts only data.
        public var measuresFirst = false
        /// Gets every range that could not be read and became zeroes. Without it a read error ends the job.
        public var onUnreadable: (@Sendable (Range<Int>, BlockError) -> Void)?
        /// When salvaging, gets where each stretch begins whose map could not be read: its data is tried.
        public var onUnmapped: (@Sendable (Int, BlockError) -> Void)?

        public init() {}
    }

    /// More threads than this were not faster on any machine that was tried.
    static let defaultWorkers = 4
    /// The most threads; each has up to 4 MiB of buffers.
    public static let maximumWorkers = 16
    /// What a thread reads at once, in bytes, unless the target's clusters are larger.
    static let chunkBytes = 1 << 20

    private let sources: [BlockNode]
    private let target: BlockNode
    private let options: Options

    public init(sources: [BlockNode], target: BlockNode, options: Options = Options()) {
        self.sources = sources
        self.target = target
        self.options = options
    }

    /// - Throws: `invalidArgument` when the target is too small, `unsupported` when it cannot compress.
    public func run(_ control: JobControl) throws(BlockError) {
        let source = try SourceDisk(sources)
        let length = source.length
        let room = options.isStream ? length : try target.length()
        guard room >= length else {
            throw BlockError(
                .invalidArgument, "output file is smaller than input file", path: target.filename)
        }
        let compresses =
            options.compress || target.format?.asCompressedWriting?.compressesAlways == true
        let compressor = try compresses ? makeCompressor() : nil
        let unit = max(unitBytes, compressor?.unitBytes ?? 1)
        let isShared =
            options.sharesSpace && !compresses && !options.isStream && options.onUnreadable == nil
            && options.sparseBytes > 0 && !control.hasSpeedLimit
        let sharer = isShared ? SpaceSharer(source, target) : nil
        let cursor = RunCursor(
            end: length, unit: unit, look: RunCursor.sharing(sharer, try classifier(source)))
        let cutter = ChunkCutter(cursor, maximumCopyBytes: Self.chunkBytes)
        control.setTotal(options.measuresFirst ? try Self.measure(cursor) : length)
        let pipeline = ChunkPipeline(
            cutter: cutter, work: work(source, compressor, sharer, bufferBytes: cutter.bufferBytes),
            workers: min(options.workers ?? Self.workers(compressing: compresses), Self.maximumWorkers),
            isOrdered: options.isStream || options.isOrdered || !options.outOfOrder && !hasFixedPlaces,
            measure: options.measuresFirst ? .copied : .covered)
        try pipeline.run(control)
        try target.flush()
    }

    /// Whether every byte of the target has its place, whatever the order in which they are written.
    private var hasFixedPlaces: Bool { target.unfiltered.format?.isTransparent == true }

    /// Copying keeps as many threads busy as there are processors; compressed pieces wait for their turn.
    private static func workers(compressing: Bool) -> Int {
        compressing ? defaultWorkers : max(2, min(defaultWorkers, WorkerThreads.processorCount))
    }

    /// Runs are cut at multiples of this: the target's clusters, or a page.
    private var unitBytes: Int {
        max(target.unfiltered.format?.writeGranularity ?? 1, AlignedBuffer.alignmentBytes)
    }

    private func makeCompressor() throws(BlockError) -> UnitCompressor {
        guard let driver = target.format?.asCompressedWriting else {
            throw BlockError(
                .unsupported, "Compression not supported for this file format", path: target.filename)
        }
        return UnitCompressor(driver: driver, keepsZeroes: options.sparseBytes == 0)
    }

    private func work(
        _ source: SourceDisk, _ compressor: UnitCompressor?, _ sharer: SpaceSharer?, bufferBytes: Int
    ) -> any ChunkWork {
        let zeroing: PieceWriter.Zeroing =
            options.isStream
            ? .asData : options.targetIsZero ? .none : options.targetIsNew ? .whereNeeded : .marked
        let granularity = target.unfiltered.format?.writeGranularity ?? 1
        let reader = SalvagingReader(source: source, onUnreadable: options.onUnreadable)
        return CopyWork(
            read: { (buffer, offset) throws(BlockError) in try reader.read(into: &buffer, at: offset) },
            scanner: ZeroScanner(granularity: granularity, sparseBytes: options.sparseBytes),
            compressor: compressor,
            copier: options.offload ? OffloadCopier(source: source, target: target) : nil,
            writer: PieceWriter(node: target, zeroing: zeroing),
            scratchBytes: compressor == nil ? 0 : bufferBytes, sharer: sharer, bufferBytes: bufferBytes)
    }

    /// What is to be done with each run of the source.
    private func classifier(_ source: SourceDisk) throws(BlockError) -> RunCursor.Look {
        let common = options.skipsBacking ? try CommonBacking(source, target) : nil
        let zeroAction: RunAction =
            options.sparseBytes == 0 ? .copy : options.targetIsZero ? .skip : .zero
        let salvage = options.onUnreadable == nil ? nil : SalvagingMap(options.onUnmapped)
        return { (offset, limit) throws(BlockError) in
            do throws(BlockError) {
                let (isCommon, reach) = try common?.look(at: offset, limit: limit) ?? (false, limit)
                if isCommon { return (.skip, reach) }
                if let salvage { return try salvage.look(source, at: offset, limit: reach, zeroAction) }
                let status = try source.status(at: offset, limit: reach)
                return (status.isZero ? zeroAction : .copy, status.length)
            } catch {
                throw error.prefixed("error while reading block status at offset \(offset)")
            }
        }
    }

    /// How many bytes there are to copy.
    private static func measure(_ cursor: RunCursor) throws(BlockError) -> Int {
        var cursor = cursor
        var total = 0
        while let run = try cursor.next(limit: Int.max.roundedDown(to: cursor.unit)) {
            if run.action == .copy || run.action == .share { total += run.range.count }
        }
        return total
    }
}
