import BlockCore
import CZstd

/// Zstandard frames (RFC 8878) of whole clusters. Thread-safe.
enum Zstandard {
    /// zstd's own default.
    private static let level: Int32 = 3

    private static let compressors = CodecPool()
    private static let decompressors = CodecPool()

    /// Compresses all of `input` into one frame.
    ///
    /// - Returns: the size in bytes, or `nil` when it does not fit into `output`.
    static func compress(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        let compressed = compressors.withState(orMake: { ZSTD_createCCtx() }) { state in
            output.withUnsafeMutableBytes { target in
                input.withUnsafeBytes { source in
                    ZSTD_compressCCtx(
                        state, target.baseAddress, target.count, source.baseAddress, source.count, level)
                }
            }
        }
        guard let size = compressed else { throw BlockError(.limit, "No memory for compressing") }
        return ZSTD_isError(size) == 0 ? size : nil
    }

    /// Decompresses exactly `output.byteCount` bytes; `input` may have more bytes behind the last frame.
    ///
    /// One call for a whole frame: the streaming interface would allocate the window that the frame states.
    /// - Throws: `corrupt` when a frame is damaged, ends early or holds more.
    static func decompress(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) {
        var consumed = 0
        var produced = 0
        let wanted = output.byteCount
        while produced < wanted {
            let rest = input.extracting(consumed..<input.byteCount)
            let frame = rest.withUnsafeBytes { ZSTD_findFrameCompressedSize($0.baseAddress, $0.count) }
            guard ZSTD_isError(frame) == 0, frame > 0 else {
                throw BlockError(.corrupt, "Compressed data is damaged or ends early")
            }
            var part = output.slice(produced..<wanted)
            let decompressed = decompressors.withState(orMake: { ZSTD_createDCtx() }) { state in
                part.withUnsafeMutableBytes { target in
                    rest.withUnsafeBytes { source in
                        ZSTD_decompressDCtx(
                            state, target.baseAddress, target.count, source.baseAddress, frame)
                    }
                }
            }
            guard let size = decompressed else { throw BlockError(.limit, "No memory for decompressing") }
            guard ZSTD_isError(size) == 0 else {
                throw BlockError(.corrupt, "Compressed data is damaged or inflates too far")
            }
            consumed += frame
            produced += size
        }
    }
}
