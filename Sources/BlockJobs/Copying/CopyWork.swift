import BlockCore

/// Reads the runs to copy, compresses them or finds the zeroes in them, and writes the pieces. Thread-safe.
struct CopyWork: ChunkWork {
    /// Reads guest bytes at an offset, as many as the buffer has.
    typealias Read = @Sendable (_ buffer: inout MutableRawSpan, _ offset: Int) throws(BlockError) -> Void

    let read: Read
    let scanner: ZeroScanner
    var compressor: UnitCompressor?
    var copier: OffloadCopier?
    let writer: PieceWriter
    var scratchBytes = 0
    /// Shares the runs to share; `nil` when there are none.
    var sharer: SpaceSharer?
    /// The size of the reads where sharing fails, in bytes: a multiple of the target's unit.
    var bufferBytes = Int.mib(1)
    /// The target, if only what its own layer does not store is to be written: a guest may write to it
    /// meanwhile.
    var vacant: BlockNode?
    /// Starts writeback as data is written; `nil` where the target is not flushed in the end.
    var writeback: Writeback?

    func prepare(_ chunk: Chunk, _ space: Workspace) throws(BlockError) {
        var position = 0
        for run in chunk.runs {
            if run.action == .zero {
                space.pieces.append(Piece(range: run.range, content: .zero))
                continue
            }
            if run.action == .share {
                space.pieces.append(Piece(range: run.range, content: .shared))
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

    func commit(_ chunk: Chunk, _ space: Workspace) throws(BlockError) {
        for piece in space.pieces { try fill(piece, space) }
        writeback?.note(chunk.copyBytes)
    }

    /// The most bytes that are held for one step beside a guest.
    private static let heldBytes = Int.mib(1)

    /// Writes a piece, or the parts of it that the target's layer does not store.
    private func fill(_ piece: Piece, _ space: Workspace) throws(BlockError) {
        guard let vacant else { return try store(piece, space) }
        let step = max(Self.heldBytes, vacant.format?.writeGranularity ?? 1)
        var offset = piece.range.lowerBound
        while offset < piece.range.upperBound {
            let part = offset..<min(offset + step, piece.range.upperBound)
            try vacant.holding(part, exclusive: true) { () throws(BlockError) in
                try vacant.storingUnchanged { () throws(BlockError) in
                    try fillVacancies(of: vacant, piece.part(part), space)
                }
            }
            offset = part.upperBound
        }
    }

    /// Writes the parts of a piece that the target's layer does not store. No other request changes them.
    private func fillVacancies(
        of vacant: BlockNode, _ piece: Piece, _ space: Workspace
    ) throws(BlockError) {
        var offset = piece.range.lowerBound
        while offset < piece.range.upperBound {
            let own = try vacant.layerExtent(at: offset, limit: piece.range.upperBound - offset)
            let run = offset..<offset + own.length
            if own.status == .unallocated { try store(piece.part(run), space) }
            offset = run.upperBound
        }
    }

    private func store(_ piece: Piece, _ space: Workspace) throws(BlockError) {
        if piece.content == .shared { try share(piece.range) } else { try writer.store(piece, space) }
    }

    /// Shares a run, and copies the rest of it where sharing ends.
    private func share(_ range: Range<Int>) throws(BlockError) {
        let done: Int
        do throws(BlockError) { done = try sharer?.share(range) ?? 0 } catch {
            throw error.prefixed("error while writing at byte \(range.lowerBound)")
        }
        var rest = range.lowerBound + done..<range.upperBound
        if rest.isEmpty { return }
        let space = Workspace(dataBytes: min(bufferBytes, rest.count), scratchBytes: 0)
        while !rest.isEmpty {
            let part = rest.lowerBound..<min(rest.upperBound, rest.lowerBound + space.data.count)
            space.pieces.removeAll(keepingCapacity: true)
            try prepare(part, at: 0, space)
            try writer.write(space)
            rest = part.upperBound..<rest.upperBound
        }
    }
}
