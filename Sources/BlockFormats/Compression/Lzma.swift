import BlockCore
import CLzma

/// xz streams (LZMA2) of whole chunks; decoding only. Thread-safe.
enum Lzma {
    /// Decompresses exactly `output.byteCount` bytes.
    ///
    /// - Parameter memoryLimit: the decoder's memory besides input and output, in bytes.
    /// - Returns: `nil`; or, when the stream needs more memory than the limit, that size in bytes, with
    ///   nothing written.
    /// - Throws: `corrupt` when the stream is damaged, ends early or holds more; `limit` when there is no
    ///   memory.
    static func decompress(
        _ input: RawSpan, into output: inout MutableRawSpan, memoryLimit: Int
    ) throws(BlockError) -> Int? {
        var limit = UInt64(clamping: memoryLimit)
        var consumed = 0
        var produced = 0
        let code = output.withUnsafeMutableBytes { target in
            input.withUnsafeBytes { source in
                lzma_stream_buffer_decode(
                    &limit, 0, nil, source.baseAddress?.assumingMemoryBound(to: UInt8.self), &consumed,
                    source.count, target.baseAddress?.assumingMemoryBound(to: UInt8.self), &produced,
                    target.count)
            }
        }
        switch code {
        case LZMA_OK where produced == output.byteCount: return nil
        case LZMA_MEMLIMIT_ERROR: return Int(clamping: limit)
        case LZMA_MEM_ERROR: throw BlockError(.limit, "No memory for decompressing")
        default: throw BlockError(.corrupt, "Compressed data is damaged or of another length")
        }
    }
}
