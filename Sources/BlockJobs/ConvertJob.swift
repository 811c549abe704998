import BlockCore

/// Copies one or several disks, one behind the other, into an existing target.
///
/// Runs that are zero in the sources' maps are never read, and zeroes become holes where the target can have
/// holes. With ordered writes the layout of the target depends on the contents and the options alone, not on
/// timing. While the job runs, nobody else may write to the nodes.
public struct ConvertJob: BlockJob {
    /// The job's name in the message that a node is in use.
    public static let name = "convert"

    /// How the disks are copied.
    public struct Options: Sendable {
        /// The number of threads, up to ``maximumWorkers``; `nil` lets the job decide.
        public var workers: Int?
        /// Whether pieces are written in the order in which they are ready; the layout of the target then
        /// varies.
        public var outOfOrder = false
        /// Whether the target reads as zeroes where nothing is written.
        public var targetIsZero = false
        /// Whether the target was made for this job: nobody has put it over another backing file, and runs
        /// that read as zeroes need no zero mark.
        public var targetIsNew = false
        /// Whether to leave out data that the source has from its backing chain and the target's backing
        /// chain has too.
        ///
        /// Where the chains have no file in common, the caller guarantees that the target's backing node has
        /// the contents of the source's.
        public var skipsBacking = false
        /// The shortest run of zeroes inside data that becomes a hole, in bytes; 0 allocates all of the
        /// target.
        public var sparseBytes = 4096
        /// Whether data is stored compressed.
        public var compress = false
        /// Whether the system copies from file to file where source and target both keep plain bytes.
        public var offload = false
        /// Whether the target shares the space of the source's files where the file systems can.
        ///
        /// Shared data is not searched for zeroes, and space that the target had reserved for it is given up.
        public var sharesSpace = false
        /// Whether the target is a stream: all bytes are written one after the other, zeroes too.
        public var isStream = false
        /// Whether the target takes writes in the order of the disk only; overrides ``outOfOrder``.
        public var isOrdered = false
        /// Whether to walk the whole map first, so that progress counts data only.
        public var measuresFirst = false
        /// Called with each range of guest bytes that could not be read and became zeroes.
        ///
        /// `nil` makes a read error end the job.
        public var onUnreadable: (@Sendable (Range<Int>, BlockError) -> Void)?
        /// Called, when ``onUnreadable`` is set, with the guest offset of each stretch whose map could not be
        /// read; the job then tries to read its data.
        public var onUnmapped: (@Sendable (Int, BlockError) -> Void)?

        /// The options of a plain copy into a target with contents of its own.
        public init() {}
    }

    /// More threads than this were not faster on any machine measured.
    static let defaultWorkers = 4
    /// The largest number of threads; each has up to 4 MiB of buffers.
    public static let maximumWorkers = 16
    /// The size of a thread's reads, in bytes, unless the target's clusters are larger.
    static let chunkBytes = Int.mib(1)

    private let sources: [BlockNode]
    private let target: BlockNode
    private let options: Options

    /// - Parameters:
    ///   - sources: the disks, in the order in which they follow each other.
    ///   - target: a writable node that is at least as large as all of them together.
    public init(sources: [BlockNode], target: BlockNode, options: Options = Options()) {
        self.sources = sources
        self.target = target
        self.options = options
    }

    public var nodes: [BlockNode] { [target] }

    /// - Throws: `invalidArgument` when the target is too small; `unsupported` when it cannot compress;
    ///   `limit` when the sources together are too large; `cancelled`; what reading and writing fail with.
    public func work(_ control: JobControl) throws(BlockError) {
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

    /// Whether the layout of the target does not depend on the order of writes.
    private var hasFixedPlaces: Bool { target.unfiltered.format?.isTransparent == true }

    /// Copying keeps as many threads busy as there are processors; compressed pieces wait for their turn.
    private static func workers(compressing: Bool) -> Int {
        compressing ? defaultWorkers : max(2, min(defaultWorkers, WorkerThreads.processorCount))
    }

    /// The unit in bytes at whose multiples runs are cut: the target's cluster, at least a page.
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

    /// Decides the action for each run of the source.
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

    /// The number of bytes to copy or share.
    private static func measure(_ cursor: RunCursor) throws(BlockError) -> Int {
        var cursor = cursor
        var total = 0
        while let run = try cursor.next(limit: Int.max.roundedDown(to: cursor.unit)) {
            if run.action == .copy || run.action == .share { total += run.range.count }
        }
        return total
    }
}
