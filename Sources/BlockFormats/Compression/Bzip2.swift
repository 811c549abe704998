import BlockCore
import CBzip2

/// bzip2 streams of whole chunks; decoding only. Thread-safe.
enum Bzip2 {
    /// The decoder's memory besides input and output, in bytes: a block has 900 kB, and each of its bytes
    /// needs four.
    static let workingBytes = 4 << 20

    /// Decompresses exactly `output.byteCount` bytes.
    ///
    /// - Throws: `corrupt` when the stream is damaged, ends early or holds more; `limit` when there is no
    ///   memory.
    static func decompress(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) {
        guard let inputCount = UInt32(exactly: input.byteCount),
            let wanted = UInt32(exactly: output.byteCount)
        else { throw BlockError(.limit, "Too much to decompress at once") }
        var produced = wanted
        let code = output.withUnsafeMutableBytes { target in
            input.withUnsafeBytes { source in
                BZ2_bzBuffToBuffDecompress(
                    target.baseAddress?.assumingMemoryBound(to: CChar.self), &produced,
                    UnsafeMutablePointer(mutating: source.baseAddress?.assumingMemoryBound(to: CChar.self)),
                    inputCount, 0, 0)
            }
        }
        guard code != BZ_MEM_ERROR else { throw BlockError(.limit, "No memory for decompressing") }
        guard code == BZ_OK, produced == wanted else {
            throw BlockError(.corrupt, "Compressed data is damaged or of another length")
        }
    }
}
