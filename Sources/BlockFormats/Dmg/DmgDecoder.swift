import BlockCore
import Synchronization

/// Decompresses chunks, within the memory limit of the cache. Thread-safe.
final class DmgDecoder: Sendable {
    let cache = DmgChunkCache()
    private let file: BlockNode
    /// The memory of an LZMA decoder, in bytes: that of xz's default dictionary, until a chunk needs a larger
    /// one.
    private let lzmaBytes = Atomic<Int>(10 << 20)

    init(file: BlockNode) { self.file = file }

    /// A whole chunk in a buffer whose memory stays reserved; the caller gives it back.
    func decompressed(_ chunk: DmgChunk) throws(BlockError) -> AlignedBuffer {
        var result: AlignedBuffer?
        try withInput(of: chunk, keeping: chunk.count) { (input, limit) throws(BlockError) in
            let buffer = AlignedBuffer(count: chunk.count)
            var output = buffer.mutableBytes
            result = buffer
            return try Self.decompress(input, chunk, into: &output, limit)
        }
        guard let result else { throw BlockError(.limit, "No memory for decompressing") }
        return result
    }

    /// Fills `output`, which is as large as the chunk.
    func decompress(_ chunk: DmgChunk, into output: inout MutableRawSpan) throws(BlockError) {
        try withInput(of: chunk, keeping: 0) { (input, limit) throws(BlockError) in
            try Self.decompress(input, chunk, into: &output, limit)
        }
    }

    /// Runs `body` on the chunk's stored bytes, with a memory limit for the decoder. If `body` returns a
    /// larger need, it is run again with that limit. All memory is reserved in one step before any is
    /// allocated; after success, only `kept` bytes stay reserved.
    private func withInput(
        of chunk: DmgChunk, keeping kept: Int,
        _ body: (_ input: RawSpan, _ limit: Int) throws(BlockError) -> Int?
    ) throws(BlockError) {
        while true {
            let working = workingBytes(chunk)
            let total = kept + chunk.length + working
            try cache.reserve(total)
            var left = 0
            defer { cache.giveBack(total - left) }
            do throws(BlockError) {
                let buffer = AlignedBuffer(count: chunk.length)
                var bytes = buffer.mutableBytes
                try file.read(into: &bytes, at: chunk.offset)
                guard let more = try body(buffer.bytes, working) else {
                    left = kept
                    return
                }
                try raiseLimit(from: working, to: more, besides: kept + chunk.length)
            } catch {
                guard error.kind == .corrupt || error.kind == .limit else { throw error }
                throw BlockError(
                    error.kind,
                    "The chunk of sector \(chunk.start / Dmg.sectorBytes) cannot be decompressed: "
                        + error.message, path: file.filename, offset: chunk.offset)
            }
        }
    }

    private func raiseLimit(from old: Int, to new: Int, besides other: Int) throws(BlockError) {
        guard new > old, new <= Dmg.Limit.memoryBytes - other else {
            throw BlockError(.limit, "The dictionary is too large (\(new) bytes of memory)")
        }
        lzmaBytes.max(new, ordering: .relaxed)
    }

    private func workingBytes(_ chunk: DmgChunk) -> Int {
        switch chunk.encoding {
        case .bzip2: Bzip2.workingBytes
        case .lzma: lzmaBytes.load(ordering: .relaxed)
        // The tables of the other decoders are small.
        default: 1 << 17
        }
    }

    /// - Returns: `nil`, or the memory that it needs in bytes if that is more than `limit`.
    private static func decompress(
        _ input: RawSpan, _ chunk: DmgChunk, into output: inout MutableRawSpan, _ limit: Int
    ) throws(BlockError) -> Int? {
        switch chunk.encoding {
        case .adc: try Adc.decompress(input, into: &output)
        case .zlib: try Deflate.decompressZlib(input, into: &output)
        case .bzip2: try Bzip2.decompress(input, into: &output)
        case .lzfse: try Lzfse.decompress(input, into: &output)
        case .lzma: return try Lzma.decompress(input, into: &output, memoryLimit: limit)
        case .zero, .ignored, .raw, nil: throw BlockError(.corrupt, "It is not compressed")
        }
        return nil
    }
}
