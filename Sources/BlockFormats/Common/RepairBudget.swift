import BlockCore

/// Limits the bytes that a repair copies when it separates blocks that share a place: a small file can map a
/// million guest blocks to one place. The next repair continues with the rest.
struct RepairBudget {
    /// The size of the budget, and the line that a report ends with when it is used up.
    enum Rule {
        /// For formats with clusters: the file's size plus 1 GiB; a copy counts as at least 4 KiB.
        case clusters
        /// For formats with blocks of MiBs: the file's size, but at least 4 GiB; a copy counts as at least 1
        /// MiB.
        case blocks

        /// The least that a copy counts as, in bytes.
        fileprivate var leastPerCopy: Int { self == .clusters ? 4096 : 1 << 20 }

        /// The last line of a report when something was left as it is.
        var message: String {
            switch self {
            case .clusters:
                "ERROR the rest was left as it is: repairing it would copy the same bytes too often"
            case .blocks: "The repair has copied as much as it may; another one goes on with the rest"
            }
        }
    }

    /// The part of the cluster budget that does not depend on the file's size, in bytes: more than accidental
    /// damage needs.
    private static let extraBytes = 1 << 30
    /// The smallest block budget, in bytes; larger than a small file.
    private static let leastBytes = 4 << 30

    private let file: BlockNode
    private let rule: Rule
    private var bytesLeft: Int
    /// Whether something was left as it is because the budget was used up.
    private(set) var wasExceeded = false

    /// The full budget for a file.
    init(for file: BlockNode, _ rule: Rule) {
        self.file = file
        self.rule = rule
        let stored = file.allocatedSize() ?? 0
        switch rule {
        case .clusters:
            let (sum, overflow) = Self.extraBytes.addingReportingOverflow(stored)
            bytesLeft = overflow ? .max : sum
        case .blocks: bytesLeft = max(Self.leastBytes, stored)
        }
    }

    /// Whether the budget is used up.
    var isExhausted: Bool { bytesLeft <= 0 }

    /// Whether one more copy may be made.
    mutating func allowsCopy() -> Bool {
        if isExhausted { wasExceeded = true }
        return !isExhausted
    }

    /// Notes a copy that read `bytes` bytes.
    mutating func spend(_ bytes: Int) { bytesLeft -= max(bytes, rule.leastPerCopy) }

    /// The last line of a report when ``wasExceeded`` is set.
    var message: String { rule.message }

    /// Copies `count` bytes. Durable with the next flush.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func copy(from source: Int, to target: Int, count: Int) throws(BlockError) {
        spend(try file.copyInside(source..<source + count, to: target))
    }

    /// Whether a range reads as zeroes, so that nothing has to be copied.
    ///
    /// - Throws: `io`.
    mutating func isZero(_ range: Range<Int>) throws(BlockError) -> Bool {
        var offset = range.lowerBound
        var bytesRead = 0
        while offset < range.upperBound {
            let part = try file.zeroRun(in: offset..<range.upperBound)
            guard part.isZero else { return false }
            bytesRead += part.bytesRead
            offset += part.length
        }
        bytesLeft -= bytesRead
        return true
    }
}

extension BlockNode {
    /// The size of one read of a zero check, in bytes.
    private static let zeroCheckBytes = 1 << 20

    /// Whether the start of a range is zero, the length of that run, and the number of bytes read to find
    /// out.
    fileprivate func zeroRun(
        in range: Range<Int>
    ) throws(BlockError) -> (isZero: Bool, length: Int, bytesRead: Int) {
        let end = min(range.upperBound, try length())
        guard range.lowerBound < end else { return (true, range.count, 0) }
        let run = try status(at: range.lowerBound, limit: end - range.lowerBound)
        if run.isZero { return (true, run.length, 0) }
        let count = min(run.length, Self.zeroCheckBytes)
        let buffer = AlignedBuffer(count: count)
        var span = buffer.mutableBytes
        try read(into: &span, at: range.lowerBound)
        return (buffer.bytes.isZero, count, count)
    }
}
