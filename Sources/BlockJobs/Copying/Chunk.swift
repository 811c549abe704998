import BlockCore

/// A portion of a copying job's work: some neighbouring runs, small enough for one thread's buffers.
struct Chunk: Sendable {
    /// Its place in the order of all chunks.
    var number = 0
    /// What is to be zeroed or copied, in ascending order; runs with nothing to do are left out.
    var runs: [Run] = []
    /// How far the chunk advances along the disk, in bytes, with all that it leaves out.
    var coveredBytes = 0
    /// The bytes to read.
    var copyBytes = 0
    /// The bytes whose space is shared.
    var sharedBytes = 0
}

/// Cuts what a cursor finds into chunks. A value that one thread at a time uses.
struct ChunkCutter: Sendable {
    /// The most runs in a chunk, so that one thread does not hold up the others for long.
    static let maximumRuns = 256
    /// The most bytes to zero in a chunk, so that a job can be stopped on the way.
    static let maximumZeroBytes = 1 << 30
    /// The same for bytes whose space is shared.
    static let maximumSharedBytes = 64 << 20

    private var cursor: RunCursor
    private let maximumCopyBytes: Int
    private var pending: Run?
    private var nextNumber = 0

    /// - Parameter maximumCopyBytes: how much a chunk may read; rounded to whole units, at least one.
    init(_ cursor: RunCursor, maximumCopyBytes: Int) {
        self.cursor = cursor
        self.maximumCopyBytes = max(cursor.unit, maximumCopyBytes.roundedDown(to: cursor.unit))
    }

    /// The bytes of buffer that the largest chunk needs.
    var bufferBytes: Int { maximumCopyBytes }

    /// The next chunk, `nil` at the end. A chunk without runs says only how far it got.
    mutating func next() throws(BlockError) -> Chunk? {
        var chunk = Chunk()
        var steps = 0
        while steps < Self.maximumRuns, chunk.copyBytes < maximumCopyBytes,
            chunk.sharedBytes < Self.maximumSharedBytes, let run = try nextRun()
        {
            steps += 1
            take(run, into: &chunk)
            if run.action == .zero, run.range.count >= Self.maximumZeroBytes { break }
        }
        guard chunk.coveredBytes > 0 else { return nil }
        chunk.number = nextNumber
        nextNumber += 1
        return chunk
    }

    private mutating func nextRun() throws(BlockError) -> Run? {
        if let run = pending {
            pending = nil
            return run
        }
        return try cursor.next(limit: Self.maximumZeroBytes.roundedDown(to: cursor.unit))
    }

    /// Adds as much of `run` as fits and keeps the rest for the next chunk.
    private mutating func take(_ run: Run, into chunk: inout Chunk) {
        var range = run.range
        if run.action == .copy, range.count > maximumCopyBytes - chunk.copyBytes {
            let cut = range.lowerBound + maximumCopyBytes - chunk.copyBytes
            pending = Run(range: cut..<range.upperBound, action: .copy)
            range = range.lowerBound..<cut
        }
        chunk.coveredBytes += range.count
        if run.action == .copy { chunk.copyBytes += range.count }
        if run.action == .share { chunk.sharedBytes += range.count }
        guard run.action != .skip else { return }
        if let last = chunk.runs.last, last.action == run.action, last.range.upperBound == range.lowerBound {
            chunk.runs[chunk.runs.count - 1].range = last.range.lowerBound..<range.upperBound
        } else {
            chunk.runs.append(Run(range: range, action: run.action))
        }
    }
}
