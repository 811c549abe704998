import BlockCore
import CDeflate
import CZlib

/// Raw deflate streams (RFC 1951) of whole clusters. Thread-safe.
enum Deflate {
    /// libdeflate's level: faster than zlib's default and smaller than QEMU's 4 KiB window makes it.
    private static let level: Int32 = 6

    private static let compressors = CodecPool()
    private static let decompressors = CodecPool()

    /// Compresses all of `input`.
    ///
    /// - Returns: the size in bytes, or `nil` when it does not fit into `output`.
    static func compress(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        let compressed = compressors.withState(orMake: { libdeflate_alloc_compressor(level) }) { state in
            output.withUnsafeMutableBytes { target in
                input.withUnsafeBytes { source in
                    libdeflate_deflate_compress(
                        state, source.baseAddress, source.count, target.baseAddress, target.count)
                }
            }
        }
        guard let size = compressed else { throw BlockError(.limit, "No memory for compressing") }
        return size > 0 ? size : nil
    }

    /// Decompresses exactly `output.byteCount` bytes; `input` may have more bytes behind the stream.
    ///
    /// - Throws: `corrupt` when the stream is damaged, ends early or holds more.
    static func decompress(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) {
        let outcome = decompressors.withState(orMake: { libdeflate_alloc_decompressor() }) { state in
            output.withUnsafeMutableBytes { target in
                input.withUnsafeBytes { source in
                    libdeflate_deflate_decompress_ex(
                        state, source.baseAddress, source.count, target.baseAddress, target.count, nil, nil)
                }
            }
        }
        guard let result = outcome else { throw BlockError(.limit, "No memory for decompressing") }
        switch result {
        case LIBDEFLATE_SUCCESS: return
        case LIBDEFLATE_BAD_DATA: try decompressUnterminated(input, into: &output)
        case LIBDEFLATE_SHORT_OUTPUT: throw BlockError(.corrupt, "Compressed data ends early")
        default: throw BlockError(.corrupt, "Compressed data inflates too far")
        }
    }

    /// Decompresses a zlib stream (RFC 1950) of exactly `output.byteCount` bytes, whose checksum must be
    /// right.
    ///
    /// - Throws: `corrupt`.
    static func decompressZlib(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) {
        let outcome = decompressors.withState(orMake: { libdeflate_alloc_decompressor() }) { state in
            output.withUnsafeMutableBytes { target in
                input.withUnsafeBytes { source in
                    libdeflate_zlib_decompress_ex(
                        state, source.baseAddress, source.count, target.baseAddress, target.count, nil, nil)
                }
            }
        }
        guard let result = outcome else { throw BlockError(.limit, "No memory for decompressing") }
        guard result == LIBDEFLATE_SUCCESS else { throw BlockError(.corrupt, "Compressed data is damaged") }
    }

    /// Compresses all of `input` into a zlib stream (RFC 1950).
    ///
    /// - Returns: the size in bytes, or `nil` when it does not fit into `output`.
    static func compressZlib(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        let compressed = compressors.withState(orMake: { libdeflate_alloc_compressor(level) }) { state in
            output.withUnsafeMutableBytes { target in
                input.withUnsafeBytes { source in
                    libdeflate_zlib_compress(
                        state, source.baseAddress, source.count, target.baseAddress, target.count)
                }
            }
        }
        guard let size = compressed else { throw BlockError(.limit, "No memory for compressing") }
        return size > 0 ? size : nil
    }

    /// Accepts a stream without an end marker if it fills the output exactly, as zlib does.
    private static func decompressUnterminated(
        _ input: RawSpan, into output: inout MutableRawSpan
    ) throws(BlockError) {
        let isWhole = output.withUnsafeMutableBytes { target in
            input.withUnsafeBytes { source -> Bool in
                var stream = z_stream()
                guard platter_inflate_init2(&stream, -15) == Z_OK else { return false }
                defer { inflateEnd(&stream) }
                stream.next_in = UnsafeMutablePointer(
                    mutating: source.baseAddress?.assumingMemoryBound(to: UInt8.self))
                stream.avail_in = UInt32(source.count)
                stream.next_out = target.baseAddress?.assumingMemoryBound(to: UInt8.self)
                stream.avail_out = UInt32(target.count)
                let code = inflate(&stream, Z_FINISH)
                return (code == Z_STREAM_END || code == Z_BUF_ERROR) && stream.avail_out == 0
            }
        }
        if !isWhole { throw BlockError(.corrupt, "Compressed data is damaged") }
    }
}

/// CRC-32 as in zlib, Ethernet and disk images (polynomial 0x04C11DB7, reflected).
enum CRC32 {
    /// Continues the checksum `start` with `bytes`.
    static func checksum(_ bytes: RawSpan, after start: UInt32 = 0) -> UInt32 {
        bytes.withUnsafeBytes { libdeflate_crc32(start, $0.baseAddress, $0.count) }
    }

    /// The checksum of two joined parts, from those of each; the second part has `count` bytes.
    static func combined(_ first: UInt32, _ second: UInt32, count: Int) -> UInt32 {
        UInt32(truncatingIfNeeded: crc32_combine(UInt(first), UInt(second), count))
    }

    /// The checksum of `count` zeroes, computed by doubling.
    ///
    /// - Complexity: O(log² `count`).
    static func ofZeroes(_ count: Int) -> UInt32 {
        var result: UInt32 = 0
        var power = checksum([UInt8(0)].span.bytes)
        var length = 1
        var left = count
        while left > 0 {
            if left & 1 != 0 { result = combined(result, power, count: length) }
            left >>= 1
            if left == 0 { break }
            power = combined(power, power, count: length)
            length *= 2
        }
        return result
    }
}
