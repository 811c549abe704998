import BlockCore

/// The output operations of dictionary decoders: append bytes, and repeat earlier output.
///
/// Every operation returns `false`, with nothing written, when its numbers exceed the buffer.
extension MutableRawSpan {
    /// Copies the part `range` of `source` to `offset`.
    mutating func append(_ source: RawSpan, _ range: Range<Int>, at offset: Int) -> Bool {
        guard let part = source.part(range), offset >= 0, part.byteCount <= byteCount - offset else {
            return false
        }
        copy(from: part, at: offset)
        return true
    }

    /// Copies to `offset` the `count` bytes that begin `distance` before it. The two may overlap, which
    /// repeats a short pattern.
    mutating func repeatBytes(at offset: Int, distance: Int, count: Int) -> Bool {
        guard distance > 0, distance <= offset, count >= 0, count <= byteCount - offset else { return false }
        withUnsafeMutableBytes { bytes in
            let source = bytes[(offset - distance)...]
            var done = 0
            // The copied bytes double with each step, and are always a whole number of patterns.
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
