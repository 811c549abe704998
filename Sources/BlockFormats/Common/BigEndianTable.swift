import BlockCore

/// Tables of big-endian 64-bit entries in a file.
enum BigEndianTable {
    private static let chunkBytes = Int.mib(1)

    /// Reads `count` entries; those past the end of the file are zero.
    static func read(_ file: BlockNode, at offset: Int, count: Int) throws(BlockError) -> [UInt64] {
        var table: [UInt64] = []
        table.reserveCapacity(count)
        let left = max(0, try file.length() - offset)
        let written = min(count, left / 8 + (left % 8).signum())
        let buffer = AlignedBuffer(count: min(max(written * 8, 8), chunkBytes))
        while table.count < written {
            let entries = min(written - table.count, buffer.count / 8)
            var bytes = buffer.mutableBytes(0..<entries * 8)
            try file.read(into: &bytes, at: offset + table.count * 8)
            for entry in 0..<entries { table.append(buffer.bytes.bigEndian(at: entry * 8) ?? 0) }
        }
        table.append(contentsOf: repeatElement(0, count: count - written))
        return table
    }

    /// The entries of `range` in the byte order of the file.
    static func part(_ table: [UInt64], _ range: Range<Int>, at offset: Int) -> TableWrites.Part {
        let bytes = [UInt8](zeroed: range.count * 8) { bytes in
            for (index, entry) in table[range].enumerated() { bytes.storeBigEndian(entry, at: index * 8) }
        }
        return TableWrites.Part(offset: offset + range.lowerBound * 8, bytes: bytes)
    }

    /// Writes the entries of `range` (all by default) of the table that starts at `offset`.
    static func write(
        _ table: [UInt64], _ range: Range<Int>? = nil, to file: BlockNode, at offset: Int
    ) throws(BlockError) {
        let range = range ?? 0..<table.count
        var next = range.lowerBound
        while next < range.upperBound {
            let entries = min(range.upperBound - next, chunkBytes / 8)
            let bytes = [UInt8](zeroed: entries * 8) { bytes in
                for entry in 0..<entries { bytes.storeBigEndian(table[next + entry], at: entry * 8) }
            }
            try file.write(bytes.span.bytes, at: offset + next * 8)
            next += entries
        }
    }
}
