import BlockCore

/// A part of a chunk with one kind of content, ready to be written.
struct Piece: Sendable, Equatable {
    enum Content: Sendable, Equatable {
        /// Data, at this offset of the workspace's data buffer.
        case data(Int)
        /// This many compressed bytes, at this offset of the workspace's scratch buffer.
        case compressed(Int, count: Int)
        case zero
        /// Data that was not read: the target shares the source's space, or the data is read when that fails.
        case shared
    }

    /// The guest bytes of the piece.
    var range: Range<Int>
    var content: Content

    /// The part of a piece that is not compressed in `range`, which is inside it.
    func part(_ range: Range<Int>) -> Piece {
        guard case .data(let start) = content else { return Piece(range: range, content: content) }
        return Piece(range: range, content: .data(start + range.lowerBound - self.range.lowerBound))
    }
}

/// Finds the zeroes in data. An immutable value.
struct ZeroScanner: Sendable {
    /// The size in bytes of the blocks that are checked for zeroes, aligned on the disk.
    let blockBytes: Int
    /// The shortest run of zeroes that becomes a piece of its own, in bytes; 0 keeps all zeroes as data.
    let minimumBytes: Int

    /// - Parameters:
    ///   - granularity: the smallest range that the target can zero without storing.
    ///   - sparseBytes: the shortest run of zeroes that becomes a hole; 0 for none.
    init(granularity: Int, sparseBytes: Int) {
        let smallest = sparseBytes > 0 ? min(sparseBytes.roundedDown(to: 512), 4096) : 4096
        blockBytes = max(granularity, smallest, 512)
        minimumBytes = sparseBytes
    }

    /// Appends the pieces of `range`, whose bytes start at `position` of `bytes`.
    func scan(_ bytes: RawSpan, _ range: Range<Int>, at position: Int, into pieces: inout [Piece]) {
        guard minimumBytes > 0 else {
            pieces.append(Piece(range: range, content: .data(position)))
            return
        }
        let shift = position - range.lowerBound
        var dataStart = range.lowerBound
        var offset = range.lowerBound
        while offset < range.upperBound {
            let zeroEnd = endOfZeroes(bytes, offset, range, shift)
            if isWorthwhile(offset..<zeroEnd, in: range) {
                appendData(dataStart..<offset, shift, &pieces)
                pieces.append(Piece(range: offset..<zeroEnd, content: .zero))
                dataStart = zeroEnd
            }
            offset = zeroEnd == range.upperBound ? zeroEnd : blockEnd(zeroEnd, range)
        }
        appendData(dataStart..<range.upperBound, shift, &pieces)
    }

    /// Where the zero blocks that start at `offset` end.
    private func endOfZeroes(_ bytes: RawSpan, _ offset: Int, _ range: Range<Int>, _ shift: Int) -> Int {
        var end = offset
        while end < range.upperBound {
            let next = blockEnd(end, range)
            guard bytes.extracting(end + shift..<next + shift).isZero else { break }
            end = next
        }
        return end
    }

    private func blockEnd(_ offset: Int, _ range: Range<Int>) -> Int {
        min(offset.roundedDown(to: blockBytes) + blockBytes, range.upperBound)
    }

    /// Whether a run of zeroes becomes a piece of its own: when it is long enough, or all there is.
    private func isWorthwhile(_ zeroes: Range<Int>, in range: Range<Int>) -> Bool {
        !zeroes.isEmpty && (zeroes.count >= minimumBytes || zeroes == range)
    }

    private func appendData(_ range: Range<Int>, _ shift: Int, _ pieces: inout [Piece]) {
        if !range.isEmpty { pieces.append(Piece(range: range, content: .data(range.lowerBound + shift))) }
    }
}

/// Compresses data in whole units. Thread-safe.
struct UnitCompressor: Sendable {
    let driver: any CompressedWriting
    /// Whether units of zeroes are stored too.
    let keepsZeroes: Bool

    var unitBytes: Int { driver.compressedUnitBytes }

    /// Appends a piece for every unit of `range`, whose bytes start at `position` of the workspace's data.
    func compress(_ range: Range<Int>, at position: Int, _ space: Workspace) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let end = min(offset.roundedDown(to: unitBytes) + unitBytes, range.upperBound)
            try compressUnit(offset..<end, at: position + offset - range.lowerBound, space)
            offset = end
        }
    }

    private func compressUnit(_ range: Range<Int>, at position: Int, _ space: Workspace) throws(BlockError) {
        let (data, scratch) = (space.data, space.scratch)
        let bytes = data.bytes(position..<position + range.count)
        guard keepsZeroes || !bytes.isZero else {
            space.pieces.append(Piece(range: range, content: .zero))
            return
        }
        var output = scratch.mutableBytes(position..<position + unitBytes)
        let isWhole = range.count == unitBytes || range.upperBound == driver.virtualSize
        guard isWhole, let count = try driver.compress(bytes, into: &output), count < range.count else {
            space.pieces.append(Piece(range: range, content: .data(position)))
            return
        }
        space.pieces.append(Piece(range: range, content: .compressed(position, count: count)))
    }
}
