import BlockCore

/// Reads the runs to copy, finds the zeroes in them or compresses them, and writes. Thread-safe.
struct CopyWork: ChunkWork {
    /// Fills the buffer from an offset.
    typealias Read = @Sendable (_ buffer: inout MutableRawSpan, _ offset: Int) throws(BlockError) -> Void

    let read: Read
    let scanner: ZeroScanner
    var compressor: UnitCompressor?
    var copier: OffloadCopier?
    let writer: PieceWriter
    var scratchBytes = 0

    func prepare(_ chunk: Chunk, _ space: Workspace) throws(BlockError) {
        var position = 0
        for run in chunk.runs {
            if run.action == .zero {
                space.pieces.append(Piece(range: run.range, content: .zero))
                continue
            }
            let done = try copier?.copy(run.range) ?? 0
            let rest = run.range.lowerBound + done..<run.range.upperBound
            try prepare(rest, at: position, space)
            position += rest.count
        }
    }

    private func prepare(_ range: Range<Int>, at position: Int, _ space: Workspace) throws(BlockError) {
        guard !range.isEmpty else { return }
        let data = space.data
        var part = data.mutableBytes(position..<position + range.count)
        try read(&part, range.lowerBound)
        if let compressor { return try compressor.compress(range, at: position, space) }
        scanner.scan(data.bytes, range, at: position, into: &space.pieces)
    }

    func commit(_ chunk: Chunk, _ space: Workspace) throws(BlockError) { try writer.write(space) }
}
