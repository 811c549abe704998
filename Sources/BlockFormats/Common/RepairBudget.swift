import BlockCore

/// Limits the bytes that a repair copies inside a file, so that blocks that share a place get one each: a
/// small file can map a million guest blocks to one place. What is left, the next repair does.
struct RepairBudget {
    /// How much may be copied, and what the user is told at the end of it.
    enum Rule {
        /// For formats with clusters: the file's size and 1 GiB; a copy counts for 4 KiB at least.
        case clusters
        /// For formats with blocks of MiBs: the file's size, but at least 4 GiB; a copy counts for 1 MiB at
        /// least.
        case blocks

        /// What a copy counts for at least, in bytes.
        fileprivate var leastPerCopy: Int { self == .clusters ? 4096 : 1 << 20 }

        /// What a report has at the end where something was left as it is.
        var message: String {
            switch self {
            case .clusters:
                "ERROR the rest was left as it is: mending it would copy the same bytes too often"
            case .blocks: "The repair has copied as much as it may; another one goes on with the rest"
            }
        }
    }

    /// What a file of any size may copy in clusters: more than damage by accident comes to.
    private static let extraBytes = 1 << 30
    /// What may be copied in blocks, also where the file has less, in bytes.
    private static let leastBytes = 4 << 30

    private let file: BlockNode
    private let rule: Rule
    private var bytesLeft: Int
    /// Whether something was left as it is because of this.
    private(set) var wasExceeded = false

    /// For a file in which nothing was copied yet.
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

    /// Notes a copy for which so many bytes were read.
    mutating func spend(_ bytes: Int) { bytesLeft -= max(bytes, rule.leastPerCopy) }

    /// What a report has at the end where ``wasExceeded``.
    var message: String { rule.message }

    /// Copies `count` bytes. Durable with the next flush.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func copy(from source: Int, to target: Int, count: Int) throws(BlockError) {
        spend(try file.copyInside(source..<source + count, to: target))
    }

    /// Whether a range reads as zeroes, so that nothing has to be copied.
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
    /// How much is read at once to learn whether it is zero, in bytes.
    private static let zeroCheckBytes = 1 << 20

    /// Whether the start of a range is zero, how far that is known, and how many bytes were read to know it.
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
