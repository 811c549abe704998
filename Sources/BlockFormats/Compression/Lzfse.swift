import BlockCore

/// LZFSE streams of whole chunks (Apple's open-source `lzfse`, 2016); decoding only. Thread-safe.
///
/// A stream is a sequence of blocks, whose first four bytes are their type, and ends with the marker `bvx$`:
///
/// ```
/// bvx-  stored         raw bytes (4), then the bytes
/// bvxn  LZVN           raw bytes (4), payload bytes (4), then the payload
/// bvx1  LZFSE          a header with the tables of frequencies as they are
/// bvx2  LZFSE          a header with packed fields and tables; see LzfseBlock
/// ```
enum Lzfse {
    private enum Magic {
        static let end: UInt32 = 0x2478_7662
        static let stored: UInt32 = 0x2D78_7662
        static let plainTables: UInt32 = 0x3178_7662
        static let packedTables: UInt32 = 0x3278_7662
        static let lzvn: UInt32 = 0x6E78_7662
    }

    /// Decompresses exactly `output.byteCount` bytes.
    ///
    /// - Throws: `corrupt` when the stream is damaged, ends early or holds more.
    static func decompress(_ input: RawSpan, into output: inout MutableRawSpan) throws(BlockError) {
        var read = 0
        var written = 0
        var decoder = LzfseDecoder()
        while true {
            guard let magic: UInt32 = input.littleEndian(at: read) else { throw damaged }
            if magic == Magic.end { break }
            guard let raw: UInt32 = input.littleEndian(at: read + 4),
                Int(raw) <= output.byteCount - written
            else { throw damaged }
            // The block's target includes the earlier output: matches reach back into it.
            var target = output.slice(0..<written + Int(raw))
            switch magic {
            case Magic.stored: read = try stored(input, read, into: &target, from: written)
            case Magic.lzvn: read = try lzvn(input, read, into: &target, from: written)
            case Magic.plainTables, Magic.packedTables:
                let block =
                    magic == Magic.plainTables
                    ? LzfseBlock(plain: input, at: read) : LzfseBlock(packed: input, at: read)
                guard let block, decoder.decode(block, input, into: &target, from: written) else {
                    throw damaged
                }
                read = block.end
            default: throw damaged
            }
            written += Int(raw)
        }
        guard written == output.byteCount else {
            throw BlockError(.corrupt, "Compressed data ends early")
        }
    }

    private static var damaged: BlockError { BlockError(.corrupt, "Compressed data is damaged") }

    private static func stored(
        _ input: RawSpan, _ offset: Int, into target: inout MutableRawSpan, from start: Int
    ) throws(BlockError) -> Int {
        let end = offset + 8 + target.byteCount - start
        guard target.append(input, offset + 8..<end, at: start) else { throw damaged }
        return end
    }

    private static func lzvn(
        _ input: RawSpan, _ offset: Int, into target: inout MutableRawSpan, from start: Int
    ) throws(BlockError) -> Int {
        guard let size: UInt32 = input.littleEndian(at: offset + 8),
            let payload = input.part(offset + 12..<offset + 12 + Int(size))
        else { throw damaged }
        try Lzvn.decompress(payload, into: &target, from: start)
        return offset + 12 + Int(size)
    }
}
