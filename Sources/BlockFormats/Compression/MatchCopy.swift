import BlockCore

/// What dictionary decoders do with their output: append bytes, and repeat what they wrote before.
///
/// Every step says with `false` that its numbers lead outside the buffer; nothing is written then.
extension MutableRawSpan {
    /// Copies the part `range` of `source` to `offset`.
    mutating func append(_ source: RawSpan, _ range: Range<Int>, at offset: Int) -> Bool {
        guard let part = source.part(range), offset >= 0, part.byteCount <= byteCount - offset else {
            return false
        }
        copy(from: part, at: offset)
        return true
    }

    /// Writes at `offset` the `count` bytes that begin `distance` before it; the two may overlap, so that a
    /// short pattern is repeated.
    mutating func repeatBytes(at offset: Int, distance: Int, count: Int) -> Bool {
        guard distance > 0, distance <= offset, count >= 0, count <= byteCount - offset else { return false }
        withUnsafeMutableBytes { bytes in
            let source = bytes[(offset - distance)...]
            var done = 0
            // What is there doubles with each step, and is always a whole number of patterns.
            while done < count {
                let step = Swift.min(count - done, distance + done)
                let target = UnsafeMutableRawBufferPointer(rebasing: bytes[(offset + done)...])
                target.copyMemory(from: UnsafeRawBufferPointer(rebasing: source.prefix(step)))
                done += step
            }
        }
        return true
    }
}
