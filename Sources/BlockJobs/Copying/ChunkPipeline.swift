import BlockCore

/// The work on each chunk, in two steps. Called by several threads, each with a workspace of its own.
protocol ChunkWork: Sendable {
    /// The size of the second buffer of a workspace, in bytes.
    var scratchBytes: Int { get }
    /// Reads the chunk, finds zeroes, compresses: the step that may run in any order of chunks.
    func prepare(_ chunk: Chunk, _ space: Workspace) throws(BlockError)
    /// Writes the chunk: the step that runs in the order of the chunks when the pipeline is ordered.
    func commit(_ chunk: Chunk, _ space: Workspace) throws(BlockError)
}

/// The buffers of one thread, reused for every chunk. Not thread-safe.
final class Workspace {
    let data: AlignedBuffer
    let scratch: AlignedBuffer
    var pieces: [Piece] = []

    init(dataBytes: Int, scratchBytes: Int) {
        data = AlignedBuffer(count: dataBytes)
        scratch = AlignedBuffer(count: scratchBytes)
    }
}

/// Runs a job's work on all chunks of a disk, on several threads.
struct ChunkPipeline: Sendable {
    /// The bytes that count as progress.
    enum Measure: Sendable {
        /// All bytes of the disk, skipped ones included.
        case covered
        /// Bytes that were read or shared.
        case copied
    }

    let cutter: ChunkCutter
    let work: any ChunkWork
    /// The number of threads, at least 1.
    var workers: Int
    /// Whether chunks are committed one at a time, in the order of the disk.
    var isOrdered = true
    var measure = Measure.covered

    /// Runs the work and returns when all chunks are committed.
    ///
    /// - Throws: `cancelled`, or the first error of the work; later chunks may be left undone.
    func run(_ control: JobControl) throws(BlockError) {
        let chunks = Monitor(cutter)
        let turnstile = Turnstile()
        let bufferBytes = cutter.bufferBytes
        try WorkerThreads.run(max(1, workers)) { (_) throws(BlockError) in
            let space = Workspace(dataBytes: bufferBytes, scratchBytes: work.scratchBytes)
            do throws(BlockError) {
                while !turnstile.isShut, let chunk = try Self.next(chunks, control) {
                    guard try pass(chunk, space, turnstile, control) else { return }
                }
            } catch {
                turnstile.shut()
                throw error
            }
        }
    }

    private static func next(
        _ chunks: Monitor<ChunkCutter>, _ control: JobControl
    ) throws(BlockError) -> Chunk? {
        let stepBytes = control.stepBytes
        return try chunks.withLock { cutter throws(BlockError) in try cutter.next(atMost: stepBytes) }
    }

    /// Prepares and commits one chunk.
    ///
    /// - Returns: `false` when another thread has failed and this one has to stop.
    private func pass(
        _ chunk: Chunk, _ space: Workspace, _ turnstile: Turnstile, _ control: JobControl
    ) throws(BlockError) -> Bool {
        try control.checkpoint(moving: chunk.copyBytes + chunk.sharedBytes)
        space.pieces.removeAll(keepingCapacity: true)
        try work.prepare(chunk, space)
        if isOrdered {
            guard turnstile.enter(chunk.number) else { return false }
            try work.commit(chunk, space)
            turnstile.leave()
        } else {
            try work.commit(chunk, space)
        }
        control.advance(
            by: measure == .covered ? chunk.coveredBytes : chunk.copyBytes + chunk.sharedBytes)
        return true
    }
}
