import BlockCore

/// What is done with each chunk, in two steps. Called by several threads, each with its own workspace.
protocol ChunkWork: Sendable {
    /// The size of the second buffer that the work wants, in bytes.
    var scratchBytes: Int { get }
    /// Reads, looks for zeroes, compresses: what may happen in any order.
    func prepare(_ chunk: Chunk, _ space: Workspace) throws(BlockError)
    /// Writes: what happens in the order of the chunks when that is asked for.
    func commit(_ chunk: Chunk, _ space: Workspace) throws(BlockError)
}

/// The buffers of one thread, used again for every chunk. Not thread-safe.
final class Workspace {
    let data: AlignedBuffer
    let scratch: AlignedBuffer
    var pieces: [Piece] = []

    init(dataBytes: Int, scratchBytes: Int) {
        data = AlignedBuffer(count: dataBytes)
        scratch = AlignedBuffer(count: scratchBytes)
    }
}

/// Takes a disk's chunks through a job's work on several threads.
struct ChunkPipeline: Sendable {
    /// What counts as progress.
    enum Measure: Sendable {
        /// Every byte of the disk that was passed.
        case covered
        /// Only bytes that were read or shared.
        case copied
    }

    let cutter: ChunkCutter
    let work: any ChunkWork
    /// How many threads, at least 1.
    var workers: Int
    /// Whether chunks are committed one after the other, in their order.
    var isOrdered = true
    var measure = Measure.covered

    /// Returns when all chunks are committed.
    ///
    /// - Throws: `cancelled`, or the first error of the work; chunks after it may be left undone.
    func run(_ control: JobControl) throws(BlockError) {
        let chunks = Monitor(cutter)
        let turnstile = Turnstile()
        let bufferBytes = cutter.bufferBytes
        try WorkerThreads.run(max(1, workers)) { (_) throws(BlockError) in
            let space = Workspace(dataBytes: bufferBytes, scratchBytes: work.scratchBytes)
            do throws(BlockError) {
                while !turnstile.isShut, let chunk = try chunks.withLock(Self.next) {
                    guard try pass(chunk, space, turnstile, control) else { return }
                }
            } catch {
                turnstile.shut()
                throw error
            }
        }
    }

    private static func next(_ cutter: inout ChunkCutter) throws(BlockError) -> Chunk? { try cutter.next() }

    /// Does all of one chunk. `false`: another thread failed, stop.
    private func pass(
        _ chunk: Chunk, _ space: Workspace, _ turnstile: Turnstile, _ control: JobControl
    ) throws(BlockError) -> Bool {
        try control.checkpoint(moving: chunk.copyBytes)
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
