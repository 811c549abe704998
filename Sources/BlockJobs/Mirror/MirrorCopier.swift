import BlockCore

/// Copies ranges of a disk to its mirror while a guest writes to the disk. Thread-safe.
struct MirrorCopier: Sendable {
    /// Below all filters: the range that a step holds is that of this node.
    let source: BlockNode
    let target: BlockNode
    /// Whether a guest's write waits until the copy of its range is in the mirror.
    let blocksWrites: Bool
    let writer: PieceWriter

    /// - Parameter marksZeroes: whether the target may get a backing file later, over which zeroes must stay.
    init(source: BlockNode, target: BlockNode, blocksWrites: Bool, marksZeroes: Bool) {
        self.source = source.unfiltered
        self.target = target
        self.blocksWrites = blocksWrites
        writer = PieceWriter(node: target, zeroing: marksZeroes ? .marked : .whereNeeded)
    }

    /// Copies a range of at most the size of the workspace's buffer.
    ///
    /// The map and the bytes are read under one ticket: a write under way would else be seen by one of them.
    /// In background mode the mirror is written without it, and a write meanwhile marks the range again.
    ///
    /// - Returns: how many bytes were data.
    func copy(_ range: Range<Int>, _ space: Workspace) throws(BlockError) -> Int {
        space.pieces.removeAll(keepingCapacity: true)
        try source.holding(range, exclusive: false) { () throws(BlockError) in
            try read(range, space)
            if blocksWrites { try writer.write(space) }
        }
        if !blocksWrites { try writer.write(space) }
        return space.pieces.reduce(0) { sum, piece in piece.content == .zero ? sum : sum + piece.range.count }
    }

    private func read(_ range: Range<Int>, _ space: Workspace) throws(BlockError) {
        let data = space.data
        var offset = range.lowerBound
        while offset < range.upperBound {
            let here = try source.status(at: offset, limit: range.upperBound - offset)
            let run = offset..<offset + here.length
            let position = offset - range.lowerBound
            if here.isZero {
                space.pieces.append(Piece(range: run, content: .zero))
            } else {
                var part = data.mutableBytes(position..<position + run.count)
                // Copy-on-read would want the range exclusively.
                try source.readUnlocked(into: &part, at: offset)
                append(run, position, space)
            }
            offset = run.upperBound
        }
    }

    /// Joins data with data before it: fewer, larger writes.
    private func append(_ run: Range<Int>, _ position: Int, _ space: Workspace) {
        if let last = space.pieces.last, case .data = last.content, last.range.upperBound == run.lowerBound {
            space.pieces[space.pieces.count - 1].range = last.range.lowerBound..<run.upperBound
        } else {
            space.pieces.append(Piece(range: run, content: .data(position)))
        }
    }
}
