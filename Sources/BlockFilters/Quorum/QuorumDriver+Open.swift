import BlockCore

/// The options of `quorum`. Refusals and their messages are those of QEMU.
extension QuorumDriver {
    private static let listKey = "children"
    /// Limits the nodes: each request is made, and each read keeps its bytes, once for each of them.
    private static let maximumNodes = 64

    /// - Throws: `invalidArgument`, `limit`; `readOnly` when a read-only disk should be rewritten; as
    ///   ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> QuorumDriver {
        let count = try nodeCount(options, request.namesChild)
        let threshold = try self.threshold(options.take("vote-threshold"), of: count)
        let pattern = try pattern(options.take("read-pattern"))
        var compares = try options.takeFlag("blkverify") ?? false
        var rewrites = try options.takeFlag("rewrite-corrupted") ?? false
        if pattern == .fifo { (compares, rewrites) = (false, false) }
        guard !compares || count == 2 && threshold == 2 else {
            throw invalid(
                "blkverify=on can only be set if there are exactly two files and vote-threshold is 2")
        }
        guard !compares || !rewrites else {
            throw invalid("rewrite-corrupted=on cannot be used with blkverify=on")
        }
        var nodes = [try request.openChild(probing: true)]
        for index in 1..<max(count, 1) {
            nodes.append(
                try request.openChild(role: "\(listKey).\(index)", probing: true, options: &options))
        }
        if rewrites, request.settings.readOnly {
            throw BlockError(.readOnly, "Block node is read-only", path: nodes[0].filename)
        }
        try checkLengths(nodes)
        return QuorumDriver(
            over: nodes, threshold: threshold, pattern: pattern, rewritesCorrupted: rewrites,
            compares: compares)
    }

    /// The number of nodes that the options name: the indices from 0 on, without gaps.
    private static func nodeCount(
        _ options: OptionTree, _ namesFirst: Bool
    ) throws(BlockError) -> Int {
        var rest = options
        let below = rest.takeSubtree(listKey)
        var indices: Set<Int> = namesFirst ? [0] : []
        for key in below.keys {
            guard let index = Int(key.prefix { $0 != "." }), index >= 0 else { throw noArray }
            indices.insert(index)
        }
        guard !indices.isEmpty else { throw invalid("Number of provided children must be 1 or more") }
        guard indices.count <= maximumNodes else {
            throw BlockError(.limit, "A quorum has at most \(maximumNodes) children")
        }
        guard indices == Set(0..<indices.count) else { throw noArray }
        return indices.count
    }

    private static func threshold(_ text: String?, of count: Int) throws(BlockError) -> Int {
        let threshold: Int
        if let text {
            guard let number = Int(text) ?? CLikeNumber.unsigned(text).flatMap({ Int(exactly: $0) }) else {
                throw invalid("Parameter 'vote-threshold' expects a number")
            }
            threshold = number
        } else {
            threshold = 0
        }
        guard threshold >= 1 else { throw invalid("Parameter 'vote-threshold' expects a value >= 1") }
        guard threshold <= count else { throw invalid("threshold may not exceed children count") }
        return threshold
    }

    private static func pattern(_ text: String?) throws(BlockError) -> ReadPattern {
        guard let text else { return .quorum }
        guard let pattern = ReadPattern(rawValue: text) else {
            throw invalid("Please set read-pattern as fifo or quorum")
        }
        return pattern
    }

    private static func checkLengths(_ nodes: [BlockNode]) throws(BlockError) {
        let length = try nodes[0].length()
        for node in nodes.dropFirst() where try node.length() != length {
            throw BlockError(
                .io, "Could not refresh total sector count: Input/output error", errno: 5,
                path: node.filename)
        }
    }

    private static var noArray: BlockError { invalid("Option \(listKey) is not a valid array") }

    private static func invalid(_ message: String) -> BlockError { BlockError(.invalidArgument, message) }
}
