import BlockCore

/// A part of a copying job's work: adjacent runs that together fit into one thread's buffers.
struct Chunk: Sendable {
    /// The chunk's index among all chunks of the job.
    var number = 0
    /// The runs to zero, copy or share, in ascending order; runs to skip are left out.
    var runs: [Run] = []
    /// The length of the chunk along the disk in bytes, skipped runs included.
    var coveredBytes = 0
    /// The number of bytes to read.
    var copyBytes = 0
    /// The number of bytes whose space is shared.
    var sharedBytes = 0
}

/// Groups the runs of a cursor into chunks. Used by one thread at a time.
struct ChunkCutter: Sendable {
    /// The largest number of runs in a chunk, so that one thread does not delay the others for long.
    static let maximumRuns = 256
    /// The limit on bytes to zero in a chunk, so that the job can be cancelled in between.
    static let maximumZeroBytes = Int.gib(1)
    /// The limit on bytes to share in a chunk, for the same reason.
    static let maximumSharedBytes = Int.mib(64)

    private var cursor: RunCursor
    private let maximumCopyBytes: Int
    private var pending: Run?
    private var nextNumber = 0
    /// The limit of the present chunk.
    private var limit = 0

    /// - Parameter maximumCopyBytes: the limit on bytes to read in a chunk; rounded down to whole units, at
    ///   least one.
    init(_ cursor: RunCursor, maximumCopyBytes: Int) {
        self.cursor = cursor
        self.maximumCopyBytes = max(cursor.unit, maximumCopyBytes.roundedDown(to: cursor.unit))
    }

    /// The size of the buffer that the largest chunk needs, in bytes.
    var bufferBytes: Int { maximumCopyBytes }

    /// The next chunk; `nil` at the end of the disk. A chunk of skipped runs only has no runs, but a length.
    ///
    /// - Parameter stepBytes: a lower limit on the bytes to read, in whole units, at least one.
    mutating func next(atMost stepBytes: Int? = nil) throws(BlockError) -> Chunk? {
        var chunk = Chunk()
        var steps = 0
        if let stepBytes {
            limit = min(maximumCopyBytes, max(cursor.unit, stepBytes.roundedDown(to: cursor.unit)))
        } else {
            limit = maximumCopyBytes
        }
        while steps < Self.maximumRuns, chunk.copyBytes < limit,
            chunk.sharedBytes < (stepBytes ?? Self.maximumSharedBytes), let run = try nextRun()
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

    /// Adds the part of `run` that fits and keeps the rest for the next chunk.
    private mutating func take(_ run: Run, into chunk: inout Chunk) {
        var range = run.range
        if run.action == .copy, range.count > limit - chunk.copyBytes {
            let cut = range.lowerBound + limit - chunk.copyBytes
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
