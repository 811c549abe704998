import BlockCore
import Synchronization

/// What a comparison of two disks found.
public enum ComparisonOutcome: Sendable, Equatable {
    /// All bytes are equal; past the end of the shorter disk the longer one reads as zeroes.
    case identical(sizesDiffer: Bool)
    /// The first bytes that differ are in the 512-byte sector at this guest offset.
    case contentDiffers(at: Int, sizesDiffer: Bool)
    /// Strict: the sizes differ.
    case sizeDiffers
    /// Strict: at this guest offset one disk is allocated, zero or compressed and the other is not.
    case statusDiffers(at: Int)
}

/// Compares the contents of two disks.
///
/// Two threads read large pieces; runs that are zero in both maps are not read. Thread-safe.
public final class CompareJob: BlockJob {
    /// The job's name in the message that a node is in use.
    public static let name = "compare"

    /// Why the comparison failed: a disk, or its map, could not be read.
    public struct Failure: Error, Sendable {
        /// The operation that failed: reading data, or reading the map.
        public enum Activity: Sendable { case reading, asking }
        /// The operation that failed.
        public var activity: Activity
        /// Whether the first of the two disks failed.
        public var isOfFirst: Bool
        /// The guest offset in bytes of the stretch that could not be compared: a run of the maps, or a part
        /// of ``stretchBytes`` of a longer run.
        public var offset: Int
        /// The reason.
        public var error: BlockError
    }

    /// The longest stretch that a failure names, in bytes.
    public static let stretchBytes = Int.mib(2)

    /// The size of the reads from each disk, in bytes.
    fileprivate static let pieceBytes = Int.kib(256)
    private static let sectorBytes = 512
    private static let workers = 2

    private let first: BlockNode
    private let second: BlockNode
    private let isStrict: Bool
    private let result = Mutex<ComparisonOutcome?>(nil)
    private let failure = Mutex<Failure?>(nil)

    /// Prepares a comparison of two open disks.
    ///
    /// - Parameter isStrict: whether sizes and allocation must agree too.
    public init(_ first: BlockNode, _ second: BlockNode, isStrict: Bool = false) {
        self.first = first
        self.second = second
        self.isStrict = isStrict
    }

    /// The result of the last run; `nil` before the first run and after one that failed.
    public var outcome: ComparisonOutcome? { result.withLock { $0 } }

    /// The failure of the last run when it was one of reading data or the map.
    public var failureDetails: Failure? { failure.withLock { $0 } }

    public var nodes: [BlockNode] { [] }

    /// - Throws: `cancelled`; the error of the read that failed, with ``failureDetails`` set, unless a
    ///   difference was found before it.
    public func work(_ control: JobControl) throws(BlockError) {
        let (firstSize, secondSize) = (try first.length(), try second.length())
        let sizesDiffer = firstSize != secondSize
        control.setTotal(max(firstSize, secondSize))
        if isStrict && sizesDiffer { return result.withLock { $0 = .sizeDiffers } }
        let cursor = Cursor(first, second, (firstSize, secondSize), isStrict: isStrict)
        do throws(BlockError) {
            try WorkerThreads.run(Self.workers) { [self] _ throws(BlockError) in
                try work(cursor, control)
            }
        } catch {
            // A difference found before the unreadable stretch is the result.
            guard let place = failureDetails?.offset, error.kind != .cancelled,
                let found = cursor.finding, found.offset < place
            else { throw error }
        }
        let found = cursor.finding
        result.withLock { result in
            switch found {
            case nil: result = .identical(sizesDiffer: sizesDiffer)
            case .status(let offset)?: result = .statusDiffers(at: offset)
            case .content(let offset)?:
                result = .contentDiffers(at: offset, sizesDiffer: sizesDiffer)
            }
        }
    }

    /// The work of one thread: takes pieces until none is left, or a difference was found before them.
    private func work(_ cursor: Cursor, _ control: JobControl) throws(BlockError) {
        let buffers = (AlignedBuffer(count: Self.pieceBytes), AlignedBuffer(count: Self.pieceBytes))
        do throws(BlockError) {
            while let piece = try next(cursor, control) {
                if let offset = try difference(in: piece, buffers) { cursor.report(.content(offset)) }
                control.advance(by: piece.range.count)
            }
        } catch {
            cursor.abandon()
            throw error
        }
    }

    private func next(_ cursor: Cursor, _ control: JobControl) throws(BlockError) -> Cursor.Piece? {
        try control.checkpoint(moving: 0)
        let (piece, skipped, failure) = cursor.next()
        if skipped > 0 { control.advance(by: skipped) }
        if let failure { throw note(failure) }
        if let piece { try control.checkpoint(moving: piece.range.count) }
        return piece
    }

    /// The guest offset of the first sector in which the pieces differ.
    private func difference(
        in piece: Cursor.Piece, _ buffers: (AlignedBuffer, AlignedBuffer)
    ) throws(BlockError) -> Int? {
        if piece.readsFirst { try read(first, piece, buffers.0) }
        if piece.readsSecond { try read(second, piece, buffers.1) }
        let count = piece.range.count
        var offset = 0
        let (mine, theirs) = (buffers.0.bytes(0..<count), buffers.1.bytes(0..<count))
        if Self.agree(mine, theirs, piece) { return nil }
        while offset < count {
            let sector =
                offset..<min(
                    count, offset + Self.sectorBytes - (piece.range.lowerBound + offset) % Self.sectorBytes)
            if !Self.agree(mine.extracting(sector), theirs.extracting(sector), piece) {
                return (piece.range.lowerBound + offset).roundedDown(to: Self.sectorBytes)
            }
            offset = sector.upperBound
        }
        return nil
    }

    private static func agree(_ mine: RawSpan, _ theirs: RawSpan, _ piece: Cursor.Piece) -> Bool {
        if piece.readsFirst && piece.readsSecond { return mine.hasSameBytes(as: theirs) }
        return piece.readsFirst ? mine.isZero : theirs.isZero
    }

    private func read(
        _ node: BlockNode, _ piece: Cursor.Piece, _ buffer: AlignedBuffer
    ) throws(BlockError) {
        var span = buffer.mutableBytes(0..<piece.range.count)
        do throws(BlockError) { try node.read(into: &span, at: piece.range.lowerBound) } catch {
            var error = error.concerning(node.filename)
            error.offset = error.offset ?? piece.range.lowerBound
            throw note(
                Failure(
                    activity: .reading, isOfFirst: node === first, offset: piece.stretchStart, error: error))
        }
    }

    /// Keeps the failure at the lowest offset.
    private func note(_ found: Failure) -> BlockError {
        failure.withLock { failure in
            if found.offset < failure?.offset ?? .max { failure = found }
        }
        return found.error
    }
}

/// Hands out the pieces that have to be read, from the start of the disks to their end. Thread-safe.
private final class Cursor: Sendable {
    /// A range of both disks. A disk is read there unless its map has the range as zero.
    struct Piece {
        var range: Range<Int>
        var readsFirst: Bool
        var readsSecond: Bool
        /// The guest offset of the stretch that the piece is a part of.
        var stretchStart: Int
    }

    enum Finding: Equatable {
        case content(Int)
        case status(Int)

        var offset: Int {
            switch self {
            case .content(let offset), .status(let offset): offset
            }
        }
    }

    private struct State {
        var offset = 0
        var finding: Finding?
        var isOver = false
        var stretch = 0..<0
    }

    private let nodes: (first: BlockNode, second: BlockNode)
    private let sizes: (first: Int, second: Int)
    private let isStrict: Bool
    private let state = Mutex(State())

    init(_ first: BlockNode, _ second: BlockNode, _ sizes: (Int, Int), isStrict: Bool) {
        nodes = (first, second)
        self.sizes = (sizes.0, sizes.1)
        self.isStrict = isStrict
    }

    /// The difference at the lowest guest offset so far.
    var finding: Finding? { state.withLock { $0.finding } }

    func report(_ finding: Finding) {
        state.withLock { state in
            if finding.offset < state.finding?.offset ?? .max { state.finding = finding }
        }
    }

    /// Ends handing out pieces.
    func abandon() { state.withLock { $0.isOver = true } }

    /// The next piece, the number of bytes skipped before it, and why the maps could not be read.
    func next() -> (piece: Piece?, skipped: Int, failure: CompareJob.Failure?) {
        state.withLock { state in
            let began = state.offset
            do throws(CompareJob.Failure) {
                let piece = try advance(&state)
                let skipped = state.offset - began - (piece?.range.count ?? 0)
                return (piece, skipped, nil)
            } catch {
                state.isOver = true
                return (nil, state.offset - began, error)
            }
        }
    }

    private func advance(_ state: inout State) throws(CompareJob.Failure) -> Piece? {
        let end = max(sizes.first, sizes.second)
        while !state.isOver, state.offset < end {
            let offset = state.offset
            // Pieces are handed out in order, so all that are left lie behind the difference.
            if let finding = state.finding, finding.offset <= offset { break }
            let one = try status(nodes.first, sizes.first, at: offset, end: end)
            let two = try status(nodes.second, sizes.second, at: offset, end: end)
            let run = min(one.length, two.length)
            if !state.stretch.contains(offset) {
                state.stretch = offset..<offset + min(run, CompareJob.stretchBytes)
            }
            if isStrict && !Self.agree(one, two) {
                if offset < state.finding?.offset ?? .max { state.finding = .status(offset) }
                break
            }
            guard one.isZero && two.isZero else {
                let range = offset..<offset + pieceLength(offset, run)
                state.offset = range.upperBound
                return Piece(
                    range: range, readsFirst: !one.isZero, readsSecond: !two.isZero,
                    stretchStart: state.stretch.lowerBound)
            }
            state.offset += run
        }
        return nil
    }

    /// Pieces end at multiples of their size, so that reads are aligned.
    private func pieceLength(_ offset: Int, _ run: Int) -> Int {
        min(run, CompareJob.pieceBytes - offset % CompareJob.pieceBytes)
    }

    /// The run of one disk's map at an offset; past the end of the disk it is zero.
    private func status(
        _ node: BlockNode, _ size: Int, at offset: Int, end: Int
    ) throws(CompareJob.Failure) -> ChainStatus {
        guard offset < size else {
            return ChainStatus(length: end - offset, isZero: true, isData: false, isPresent: false, depth: 0)
        }
        do throws(BlockError) { return try node.status(at: offset, limit: size - offset) } catch {
            throw CompareJob.Failure(
                activity: .asking, isOfFirst: node === nodes.first, offset: offset,
                error: error.concerning(node.filename))
        }
    }

    private static func agree(_ one: ChainStatus, _ two: ChainStatus) -> Bool {
        one.isZero == two.isZero && one.isData == two.isData && one.isPresent == two.isPresent
            && one.isCompressed == two.isCompressed && (one.hostOffset == nil) == (two.hostOffset == nil)
    }
}
