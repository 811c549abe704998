import BlockCore

/// Several nodes that are read as one disk, one behind the other. Thread-safe.
struct SourceDisk: Sendable {
    let nodes: [BlockNode]
    /// The offset at which each node starts, and the end of the disk last.
    private let starts: [Int]

    /// - Throws: `limit` when the sum of the sizes overflows; what reading the sizes fails with.
    init(_ nodes: [BlockNode]) throws(BlockError) {
        var starts = [0]
        for node in nodes {
            let (end, overflow) = starts[starts.count - 1].addingReportingOverflow(try node.length())
            guard !overflow else { throw BlockError(.limit, "The sources are too large together") }
            starts.append(end)
        }
        self.nodes = nodes
        self.starts = starts
    }

    /// The size of the disk, in bytes.
    var length: Int { starts[starts.count - 1] }

    /// The node that contains `offset` (inside the disk), and the range of the node.
    func part(at offset: Int) -> (node: BlockNode, range: Range<Int>) {
        var index = 0
        while index < nodes.count - 1, offset >= starts[index + 1] { index += 1 }
        return (nodes[index], starts[index]..<starts[index + 1])
    }

    /// The number of bytes from `offset` to the end of its unit: the smallest unit that the chain of its node
    /// allocates, at least a sector.
    func bytesLeftInUnit(at offset: Int) -> Int {
        let (node, range) = part(at: offset)
        let units = node.chain.map { $0.unfiltered.format?.writeGranularity ?? 1 }
        let unit = max(SalvagingReader.sectorBytes, units.min() ?? 1)
        return unit - (offset - range.lowerBound) % unit
    }

    /// Fills `buffer` from `offset`. The range has to be inside the disk.
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        var done = 0
        while done < count {
            let (node, range) = part(at: offset + done)
            let run = min(count - done, range.upperBound - offset - done)
            var part = buffer.slice(done..<done + run)
            try node.read(into: &part, at: offset + done - range.lowerBound)
            done += run
        }
    }

    /// The run of the chain's map at `offset`.
    func status(at offset: Int, limit: Int) throws(BlockError) -> ChainStatus {
        let (node, range) = part(at: offset)
        return try node.status(at: offset - range.lowerBound, limit: min(limit, range.upperBound - offset))
    }
}
