import BlockCore

/// Apple Data Compression: literals and matches of up to 64 KiB back, distinguished by the upper bits of a
/// byte.
///
/// ```
/// 1nnnnnnn                      n + 1 literal bytes follow
/// 01nnnnnn dddddddd dddddddd    n + 4 bytes from d + 1 back
/// 00nnnndd dddddddd             n + 3 bytes from d + 1 back
/// ```
enum Adc {
    /// Decompresses exactly `output.byteCount` bytes.
    ///
    /// - Throws: `corrupt` when the stream is damaged, ends early or holds more.
    static func decompress(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) {
        var read = 0
        var written = 0
        while written < output.byteCount {
            guard let step = step(input, at: read) else {
                throw BlockError(.corrupt, "Compressed data ends early")
            }
            let fits =
                step.distance == 0
                ? output.append(input, read + 1..<read + 1 + step.count, at: written)
                : output.repeatBytes(at: written, distance: step.distance, count: step.count)
            guard fits else { throw BlockError(.corrupt, "Compressed data is damaged") }
            written += step.count
            read += step.inputBytes
        }
        guard read == input.byteCount else { throw BlockError(.corrupt, "Compressed data inflates too far") }
    }

    /// The step that begins at `offset`; a distance of 0 means literals.
    private static func step(
        _ input: RawSpan, at offset: Int
    ) -> (count: Int, distance: Int, inputBytes: Int)? {
        guard let first: UInt8 = input.bigEndian(at: offset) else { return nil }
        if first & 0x80 != 0 {
            let count = Int(first & 0x7F) + 1
            return (count, 0, 1 + count)
        }
        if first & 0x40 != 0 {
            guard let distance: UInt16 = input.bigEndian(at: offset + 1) else { return nil }
            return (Int(first & 0x3F) + 4, Int(distance) + 1, 3)
        }
        guard let both: UInt16 = input.bigEndian(at: offset) else { return nil }
        return (Int(both >> 10) + 3, Int(both & 0x3FF) + 1, 2)
    }
}
