import BlockCore

/// The copies that a repair makes inside a file, so that blocks that share a place get one each.
///
/// A small file may say that millions of blocks share one; a repair ends before that takes days. What it has
/// left to do, the next repair does.
struct RepairCopies {
    /// What may be copied in bytes, also where the file has less.
    static let leastBytes = 4 << 30
    /// What a copy counts for at least, in bytes.
    private static let leastPerCopy = 1 << 20

    private let file: BlockNode
    private var bytesLeft: Int

    /// For a file that is left as it is so far: it may double.
    init(in file: BlockNode) {
        self.file = file
        bytesLeft = max(Self.leastBytes, file.allocatedSize() ?? 0)
    }

    /// Whether there is an end to it here.
    var isExhausted: Bool { bytesLeft <= 0 }

    /// What to say then.
    static let exhausted =
        "The repair has copied as much as it may; another one goes on with the rest"

    /// Copies `count` bytes. Durable with the next flush.
    mutating func copy(from source: Int, to target: Int, count: Int) throws(BlockError) {
        self.count(try file.copyInside(source..<source + count, to: target))
    }

    /// Notes a copy for which so many bytes were read.
    mutating func count(_ bytes: Int) { bytesLeft -= max(bytes, Self.leastPerCopy) }

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
