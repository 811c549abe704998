import BlockCore
import Synchronization

/// Copies a disk, as it is at one moment, to another node, while the guest goes on writing.
///
/// The moment is when the engine starts the job (``prepare()``), with all requests of the source stopped for
/// an instant. From then on whoever changes a part of the disk copies it to the target first, and the job
/// copies the rest. Killed at any moment, the job leaves the source and its bitmaps as they are and the
/// target unfinished. After a cancellation or a failure the bitmap still has all that the next backup needs.
///
/// ```swift
/// let bitmap = try disk.addBitmap(named: "since-monday")
/// try engine.start(BackupJob(source: disk, target: full)).wait()
/// // The next day, to a new image over the first one:
/// try engine.start(
///     BackupJob(source: disk, target: changes, sync: .incremental(bitmap: "since-monday"))).wait()
/// ```
public struct BackupJob: BlockJob {
    /// The job's name, in lists and in messages about a node in use.
    public static let name = "backup"
    /// A backup of kind ``Sync/none`` goes on until it is told to complete.
    public static let waitsForCompletion = true

    /// The parts of the disk that the target gets.
    public enum Sync: Sendable, Equatable {
        /// All data of the backing chain.
        case full
        /// The clusters of which the source's own layer stores something.
        case top
        /// The clusters that a bitmap marks, in memory or stored in the source's image.
        case incremental(bitmap: String)
        /// Only what writes push out, until the job is cancelled or told to complete.
        case none
    }

    /// What becomes of the bitmap of an incremental backup.
    public enum BitmapMode: String, Sendable, CaseIterable {
        /// After success it has only the changes since the moment; else it keeps all.
        case onSuccess = "on-success"
        /// What the target got is taken out of it, also after a failure.
        case always
        /// It keeps all, and gets the changes since the moment.
        case never
    }

    /// The copy and the use of the bitmap, from their beginning until the work takes them over. Thread-safe.
    private final class Moment: Sendable {
        private let parts = Mutex<(copy: PointInTimeCopy, use: BitmapUse?)?>(nil)

        func set(_ copy: PointInTimeCopy, _ use: BitmapUse?) { parts.withLock { $0 = (copy, use) } }
        func take() -> (copy: PointInTimeCopy, use: BitmapUse?)? {
            parts.withLock { parts in
                defer { parts = nil }
                return parts
            }
        }
    }

    private let source: BlockNode
    private let target: BlockNode
    private let moment = Moment()
    private let sync: Sync
    private let bitmapMode: BitmapMode
    private let compress: Bool
    public let speed: Int
    private let errorPolicy: PointInTimeCopy.ErrorPolicy

    /// - Parameters:
    ///   - target: a writable node that is at least as large as the source and does not read it.
    ///   - compress: whether the target stores data compressed.
    ///   - speed: the limit in bytes a second for what the job itself copies; 0 keeps the limit of its
    ///     control.
    ///   - errorPolicy: what happens when a part of the disk that is about to change cannot be copied.
    public init(
        source: BlockNode, target: BlockNode, sync: Sync = .full, bitmapMode: BitmapMode = .onSuccess,
        compress: Bool = false, speed: Int = 0, errorPolicy: PointInTimeCopy.ErrorPolicy = .breakGuestWrite
    ) {
        self.source = source
        self.target = target
        self.sync = sync
        self.bitmapMode = bitmapMode
        self.compress = compress
        self.speed = speed
        self.errorPolicy = errorPolicy
    }

    public var nodes: [BlockNode] { [source, target] }

    /// Takes the moment.
    ///
    /// - Throws: `invalidArgument` when the target is too small or reads the source; `unsupported` when it
    ///   cannot compress, or the source has no format; `notFound`, `busy`, `corrupt` and `readOnly` for the
    ///   bitmap; errors of reading the bitmap.
    public func prepare() throws(BlockError) {
        let (copy, use) = try begin()
        moment.set(copy, use)
    }

    public func abandon() {
        guard let (copy, use) = moment.take() else { return }
        copy.detach()
        // Keeping all bits writes nothing.
        try? use?.end(.keep)
    }

    /// - Throws: as ``prepare()`` if that was not called; `cancelled`; errors of reading and writing.
    public func work(_ control: JobControl) throws(BlockError) {
        let (copy, use) = try takeMoment()
        control.setTotal(copy.size)
        var failure: BlockError?
        do throws(BlockError) { try fill(copy, control) } catch { failure = error }
        copy.detach()
        failure = failure ?? copy.failure
        var isDurable = true
        do throws(BlockError) { try target.flush() } catch {
            failure = failure ?? error
            isDurable = false
        }
        do throws(BlockError) {
            try use?.end(outcome(failure, isDurable: isDurable, rest: copy.remaining))
        } catch { failure = failure ?? error }
        if let failure { throw failure }
    }

    // MARK: The moment

    private func takeMoment() throws(BlockError) -> (copy: PointInTimeCopy, use: BitmapUse?) {
        if let parts = moment.take() { return parts }
        return try begin()
    }

    /// Begins the copy and the use of the bitmap at one moment.
    private func begin() throws(BlockError) -> (copy: PointInTimeCopy, use: BitmapUse?) {
        if target.isReadOnly {
            throw BlockError(.readOnly, "Block node is read-only", path: target.filename)
        }
        return try source.drained { () throws(BlockError) in
            var use: BitmapUse?
            if case .incremental(let name) = sync {
                use = try source.useBitmap(named: name, for: Self.name, changes: bitmapMode != .never)
            }
            do throws(BlockError) {
                let copy = try PointInTimeCopy(
                    of: source, to: target, scope: use?.bits, options: copyOptions)
                try copy.attach()
                return (copy, use)
            } catch {
                try? use?.end(.keep)
                throw error
            }
        }
    }

    private var copyOptions: PointInTimeCopy.Options {
        var options = PointInTimeCopy.Options()
        options.layerOnly = sync == .top
        // A part of a chain may get its backing file later; a full copy stands alone.
        options.marksZeroes = sync != .full
        options.compress = compress
        options.errorPolicy = errorPolicy
        return options
    }

    /// What becomes of the bitmap.
    ///
    /// - Parameters:
    ///   - isDurable: whether what was copied is durable in the target.
    ///   - rest: the clusters that were not copied.
    private func outcome(
        _ failure: BlockError?, isDurable: Bool, rest: DirtyBitmap
    ) -> BitmapUse.Outcome {
        switch bitmapMode {
        case .never: .keep
        case .onSuccess: failure == nil ? .replace(rest: nil) : .keep
        case .always: isDurable ? .replace(rest: failure == nil ? nil : rest) : .keep
        }
    }

    // MARK: In the background

    private func fill(_ copy: PointInTimeCopy, _ control: JobControl) throws(BlockError) {
        if sync == .none { return try follow(copy, control) }
        let cursor = RunCursor(end: copy.size, unit: copy.clusterBytes, look: look(copy))
        let cutter = ChunkCutter(cursor, maximumCopyBytes: LayerCopy.chunkBytes)
        let work = BackupWork(copy: copy, writeback: Writeback(of: target))
        try ChunkPipeline(cutter: cutter, work: work, workers: workers, isOrdered: false).run(control)
    }

    /// Waits while writes push their clusters out.
    private func follow(_ copy: PointInTimeCopy, _ control: JobControl) throws(BlockError) {
        copy.onFailure { control.wake() }
        control.becomeReady()
        while !control.mustComplete, copy.failure == nil { try control.waitForNews() }
    }

    private var workers: Int {
        compress
            ? ConvertJob.defaultWorkers
            : max(2, min(ConvertJob.defaultWorkers, WorkerThreads.processorCount))
    }

    /// What is left to copy. A guest may write meanwhile: the copy looks again under its locks.
    private func look(_ copy: PointInTimeCopy) -> RunCursor.Look {
        let layerOnly = sync == .top
        return { (offset, limit) throws(BlockError) in
            var (isPending, length) = copy.pendingRun(at: offset, limit: limit)
            guard isPending else { return (.skip, length) }
            if layerOnly {
                let own = try copy.source.layerExtent(at: offset, limit: length)
                if own.status == .unallocated { return (.skip, own.length) }
                length = own.length
            }
            let status = try copy.source.status(at: offset, limit: length)
            return (status.isZero ? .zero : .copy, status.length)
        }
    }
}

/// Copies what is pending of each chunk. Thread-safe.
private struct BackupWork: ChunkWork {
    let copy: PointInTimeCopy
    let writeback: Writeback
    let scratchBytes = 0

    func prepare(_ chunk: Chunk, _ space: Workspace) throws(BlockError) {}

    func commit(_ chunk: Chunk, _ space: Workspace) throws(BlockError) {
        for run in chunk.runs { try copy.copy(run.range, buffer: space.data) }
        if let failure = copy.failure { throw failure }
        writeback.note(chunk.copyBytes)
    }
}
