import BlockCore

/// Writes pieces to a node; zeroes in the way that the job needs. Thread-safe.
struct PieceWriter: Sendable {
    /// How a piece of zeroes is written.
    enum Zeroing: Sendable {
        /// Not at all: the node reads as zeroes where nothing is written.
        case none
        /// As zeroes where the node does not read as zeroes already.
        case whereNeeded
        /// The same, and with a zero mark where the node's format has one, so that the range reads as zeroes
        /// over any backing file that the node gets later.
        case marked
        /// In the node's own layer, since the contents of the layers below are going to change.
        case inThisLayer
        /// As data, since the target takes nothing else.
        case asData
    }

    let node: BlockNode
    let zeroing: Zeroing
    /// Shares the source's space instead of writing pieces of data, where the file systems can.
    var sharer: SpaceSharer?

    /// - Throws: what the node throws, with the offset in the message.
    func write(_ space: Workspace) throws(BlockError) {
        for piece in space.pieces { try store(piece, space) }
    }

    /// - Throws: what the node throws, with the offset in the message.
    func store(_ piece: Piece, _ space: Workspace) throws(BlockError) {
        do throws(BlockError) {
            try write(piece, space)
        } catch {
            throw error.prefixed("error while writing at byte \(piece.range.lowerBound)")
        }
    }

    private func write(_ piece: Piece, _ space: Workspace) throws(BlockError) {
        let range = piece.range
        let (data, scratch) = (space.data, space.scratch)
        switch piece.content {
        case .data(let start):
            let done = try sharer?.share(range) ?? 0
            guard done < range.count else { return }
            try node.write(data.bytes(start + done..<start + range.count), at: range.lowerBound + done)
        case .compressed(let start, let count):
            try node.writeCompressed(scratch.bytes(start..<start + count), at: range.lowerBound)
        case .zero:
            try zero(range)
        case .shared:
            preconditionFailure("\(range) is for CopyWork")
        }
    }

    /// Makes `range` read as zeroes.
    func zero(_ range: Range<Int>) throws(BlockError) {
        switch zeroing {
        case .none: return
        case .whereNeeded: try zeroWhereNeeded(range)
        case .marked: try mark(range)
        case .inThisLayer: try zeroInThisLayer(range)
        case .asData: try writeZeroBytes(range)
        }
    }

    private func zeroWhereNeeded(_ range: Range<Int>) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let here = try node.status(at: offset, limit: range.upperBound - offset)
            if !here.isZero { try node.writeZeroes(at: offset, count: here.length) }
            offset += here.length
        }
    }

    /// Adds zero marks. Zero clusters that have space of their own, and data clusters that are holes of the
    /// file, stay as they are.
    private func mark(_ range: Range<Int>) throws(BlockError) {
        guard node.marksZeroes else {
            return try zeroWhereNeeded(range)
        }
        var offset = range.lowerBound
        while offset < range.upperBound {
            let own = try node.layerExtent(at: offset, limit: range.upperBound - offset)
            switch own.status {
            case .zero(_?): break
            case .data: try zeroWhereNeeded(offset..<offset + own.length)
            default: try node.writeZeroes(at: offset, count: own.length)
            }
            offset += own.length
        }
    }

    /// Writes zeroes, and stores them as data where the driver has left them out because the present chain
    /// reads as zeroes there anyway.
    private func zeroInThisLayer(_ range: Range<Int>) throws(BlockError) {
        try node.writeZeroes(at: range.lowerBound, count: range.count)
        var offset = range.lowerBound
        while offset < range.upperBound {
            let here = try node.layerExtent(at: offset, limit: range.upperBound - offset)
            if here.status == .unallocated { try writeZeroBytes(offset..<offset + here.length) }
            offset += here.length
        }
    }

    private static let zeroBufferBytes = Int.mib(1)

    private func writeZeroBytes(_ range: Range<Int>) throws(BlockError) {
        let zeroes = AlignedBuffer(count: min(range.count, Self.zeroBufferBytes), zeroed: true)
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(zeroes.count, range.upperBound - offset)
            try node.write(zeroes.bytes(0..<count), at: offset)
            offset += count
        }
    }
}
