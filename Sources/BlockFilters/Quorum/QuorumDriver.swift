import BlockCore

/// Keeps a disk on several nodes and reads what most of them hold: QEMU's `quorum`.
///
/// Thread-safe.
///
/// `driver=quorum,children.0.…,children.1.…,vote-threshold=N`, with `read-pattern`, `rewrite-corrupted` and
/// `blkverify`. A change goes to all nodes and succeeds when `vote-threshold` of them made it. The filter
/// shows no node's map or backing chain. Discards do nothing: what discarded bytes read as differs from node
/// to node.
public final class QuorumDriver: OpenableFilter {
    public static let name = "quorum"
    public static let childRole = "children.0"
    public static let optionsInName: [String]? = [
        "read-pattern", "rewrite-corrupted", "blkverify", "vote-threshold",
    ]

    /// How reads choose among the nodes.
    public enum ReadPattern: String, Sendable {
        /// All nodes are read, and vote.
        case quorum
        /// The first node that can be read.
        case fifo
    }

    /// The most bytes that are read from each node at once.
    private static let pieceBytes = Int.mib(16)

    public let children: [FilterChild]
    let nodes: [BlockNode]
    let threshold: Int
    let pattern: ReadPattern
    /// Whether nodes that lost a vote are written.
    let rewritesCorrupted: Bool
    /// Whether the two nodes are compared, and differences are errors with an offset.
    let compares: Bool

    /// - Parameters:
    ///   - nodes: at least one.
    ///   - threshold: how many nodes must agree: from 1 to their number.
    ///   - compares: for two nodes and the threshold 2: report the first difference.
    public init(
        over nodes: [BlockNode], threshold: Int, pattern: ReadPattern = .quorum,
        rewritesCorrupted: Bool = false, compares: Bool = false
    ) {
        self.nodes = nodes
        children = nodes.enumerated().map { FilterChild(role: "children.\($0)", node: $1) }
        self.threshold = threshold
        self.pattern = pattern
        self.rewritesCorrupted = rewritesCorrupted
        self.compares = compares
    }

    public var child: BlockNode { nodes[0] }
    public var showsChild: Bool { false }

    // MARK: Requests

    /// The length that enough nodes have.
    ///
    /// - Throws: `io` when they have different lengths; as ``BlockNode/length()``.
    public func length() throws(BlockError) -> Int {
        var votes: [Int: Int] = [:]
        var failure: BlockError?
        for node in nodes {
            do throws(BlockError) { votes[try node.length(), default: 0] += 1 } catch { failure = error }
        }
        guard votes.count == 1, let vote = votes.first, vote.value >= threshold else {
            throw failure ?? disagreement(at: 0)
        }
        return vote.key
    }

    /// - Throws: `io` when too few nodes agree; as ``BlockNode/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let range = try Range.request(offset, buffer.byteCount)
        if pattern == .fifo { return try readFirst(into: &buffer, at: offset) }
        for start in stride(from: 0, to: range.count, by: Self.pieceBytes) {
            var piece = buffer.slice(start..<min(range.count, start + Self.pieceBytes))
            try readByVote(into: &piece, at: offset + start)
        }
    }

    private func readFirst(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        var failure: BlockError?
        for node in nodes {
            do throws(BlockError) { return try node.read(into: &buffer, at: offset) } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
    }

    /// - Throws: as ``BlockNode/write(_:at:)`` when too few nodes make the change.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try onAll(offset, bytes.byteCount) { node throws(BlockError) in try node.write(bytes, at: offset) }
    }

    /// - Throws: as ``BlockNode/writeZeroes(at:count:flags:)`` when too few nodes make the change.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try onAll(offset, count) { node throws(BlockError) in
            try node.writeZeroes(at: offset, count: count, flags: flags)
        }
    }

    /// - Throws: nothing.
    public func discard(at offset: Int, count: Int) throws(BlockError) {}

    /// - Throws: `unsupported`.
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) {
        throw BlockError(.unsupported, "Image format driver does not support resize", path: child.filename)
    }

    /// - Throws: as ``BlockNode/flush()`` when too few nodes are flushed.
    public func flush() throws(BlockError) {
        try settle { node throws(BlockError) in try node.flush() }
    }

    /// Zero where all nodes are known to read as zeroes, else data.
    ///
    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        var length = limit
        var isZero = true
        for node in nodes {
            guard let run = try? node.status(at: offset, limit: length) else {
                isZero = false
                continue
            }
            length = run.length
            isZero = isZero && run.isZero
        }
        return Extent(isZero ? .zero(hostOffset: nil) : .encoded(compressed: false), length: length)
    }

    // MARK: Counting

    private func onAll(
        _ offset: Int, _ count: Int, _ body: (BlockNode) throws(BlockError) -> Void
    ) throws(BlockError) {
        let range = try Range.request(offset, count)
        // No read may see some nodes before the change and some after it.
        try child.holding(range, exclusive: true) { () throws(BlockError) in try settle(body) }
    }

    /// Runs `body` for each node. Throws its first error when fewer than ``threshold`` succeed.
    private func settle(_ body: (BlockNode) throws(BlockError) -> Void) throws(BlockError) {
        var successes = 0
        var failure: BlockError?
        for node in nodes {
            do throws(BlockError) {
                try body(node)
                successes += 1
            } catch { failure = failure ?? error }
        }
        if successes < threshold, let failure { throw failure }
    }

    func disagreement(at offset: Int) -> BlockError {
        BlockError(.io, "Input/output error", errno: 5, path: child.filename, offset: offset)
    }
}
