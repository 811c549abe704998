import BlockCore

/// Copying inside a file, for repairs and for moving units of an image.
extension BlockNode {
    /// The size of one read, in bytes.
    private static let innerCopyBytes = Int.mib(1)

    /// Copies bytes to another place of this file. Holes and zeroes become holes, also behind the file's end.
    ///
    /// - Returns: the number of bytes read; holes are not.
    /// - Throws: `io`, `noSpace`.
    @discardableResult
    func copyInside(_ source: Range<Int>, to target: Int) throws(BlockError) -> Int {
        let end = min(source.upperBound, max(source.lowerBound, try length()))
        let buffer = AlignedBuffer(count: min(source.count, Self.innerCopyBytes))
        let shift = target - source.lowerBound
        var (offset, stored) = (source.lowerBound, 0)
        while offset < end {
            let run = try status(at: offset, limit: end - offset)
            let count = run.isZero ? run.length : min(run.length, buffer.count)
            if run.isZero {
                try writeZeroes(at: offset + shift, count: count)
            } else {
                var bytes = buffer.mutableBytes(0..<count)
                try read(into: &bytes, at: offset)
                try writeOrZero(buffer.bytes(0..<count), at: offset + shift)
                stored += count
            }
            offset += count
        }
        try writeZeroes(at: offset + shift, count: source.upperBound - offset)
        return stored
    }

    private func writeOrZero(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        if bytes.isZero {
            try writeZeroes(at: offset, count: bytes.byteCount)
        } else {
            try write(bytes, at: offset)
        }
    }

    /// Whether the range consists of holes only, so that it is zero without a read.
    ///
    /// - Throws: `io`.
    func isHole(_ range: Range<Int>) throws(BlockError) -> Bool {
        let end = min(range.upperBound, try length())
        var offset = range.lowerBound
        while offset < end {
            let run = try status(at: offset, limit: end - offset)
            guard run.isZero else { return false }
            offset += run.length
        }
        return true
    }
}
