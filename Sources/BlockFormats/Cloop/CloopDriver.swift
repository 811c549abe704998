import BlockCore

/// Names, numbers and limits of Knoppix's compressed loop images, version 2.
enum Cloop {
    static let magic =
        "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    /// The places behind the script, in bytes: the block size and the number of blocks (32 bits each,
    /// big-endian), then the offsets of the blocks.
    static let blockSizeStart = 128
    static let blockCountStart = 132
    static let offsetsStart = 136
    static let sectorBytes = 512

    enum Limit {
        static let blockBytes = 512...(16 << 20)
        /// The number of blocks: each has an offset of 8 bytes in memory.
        static let blocks = 4 << 20
    }
}

/// Compressed loop images: a sequence of blocks of zlib data.
///
/// Read only.
///
/// Thread-safe: a lock guards the block that was decompressed last, and is not held during decompression.
public final class CloopDriver: ReadOnlyFormat {
    public static let name = "cloop"

    private let file: BlockNode
    private let blockBytes: Int
    /// The offsets of the blocks, ascending, and the end of the last one, in bytes.
    private let offsets: [Int]
    private let recent = Monitor<(block: Int, bytes: [UInt8])>((-1, []))

    private init(file: BlockNode, blockBytes: Int, offsets: [Int]) {
        self.file = file
        self.blockBytes = blockBytes
        self.offsets = offsets
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let start = Array(Cloop.magic.utf8.prefix(23))
        return header.part(0..<start.count)?.array == start ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `corrupt`, `limit`, `readOnly`; `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> CloopDriver {
        do throws(BlockError) {
            try refuseWriting(request)
            let file = request.file
            let length = try file.length()
            let head = try file.readBytes(at: 0, count: min(length, Cloop.offsetsStart))
            let span = head.span.bytes
            guard let size: UInt32 = span.bigEndian(at: Cloop.blockSizeStart),
                let count: UInt32 = span.bigEndian(at: Cloop.blockCountStart), probe(span, filename: "") > 0
            else { throw BlockError(.wrongFormat, "Image not in cloop format") }
            let blockBytes = Int(size)
            guard Cloop.Limit.blockBytes.contains(blockBytes), blockBytes % Cloop.sectorBytes == 0 else {
                throw BlockError(.corrupt, "cloop block size \(blockBytes) is not allowed")
            }
            guard count <= Cloop.Limit.blocks else {
                throw BlockError(.limit, "The cloop image has too many blocks (\(count))")
            }
            let offsets = try readOffsets(file, count: Int(count) + 1, length, blockBytes)
            return CloopDriver(file: file, blockBytes: blockBytes, offsets: offsets)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    private static func readOffsets(
        _ file: BlockNode, count: Int, _ length: Int, _ blockBytes: Int
    ) throws(BlockError) -> [Int] {
        guard Cloop.offsetsStart + count * 8 <= length else {
            throw try file.cutError(
                "The table of cloop offsets", end: Cloop.offsetsStart + count * 8, at: Cloop.offsetsStart)
        }
        var offsets: [Int] = []
        offsets.reserveCapacity(count)
        while offsets.count < count {
            let part = min(count - offsets.count, 1 << 17)
            let bytes = try file.readBytes(at: Cloop.offsetsStart + offsets.count * 8, count: part * 8)
            let span = bytes.span.bytes
            for index in 0..<part {
                let value: UInt64 = span.bigEndian(at: index * 8) ?? 0
                let last = offsets.last ?? Cloop.offsetsStart
                // zlib's result for incompressible data is slightly longer.
                guard let offset = Int(exactly: value), offset >= last,
                    offsets.isEmpty || offset - last <= 2 * blockBytes
                else { throw BlockError(.corrupt, "A cloop offset is not allowed (\(value))") }
                offsets.append(offset)
            }
        }
        return offsets
    }

    public var virtualSize: Int { (offsets.count - 1) * blockBytes }

    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.encoded(compressed: true), length: limit)
    }

    /// - Throws: `corrupt`, `limit`, `io`.
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        var done = 0
        while done < buffer.byteCount {
            let block = (offset + done) / blockBytes
            let inside = (offset + done) % blockBytes
            let count = min(buffer.byteCount - done, blockBytes - inside)
            var part = buffer.slice(done..<done + count)
            if count == blockBytes {
                try decompress(block, into: &part)
            } else {
                let bytes = try whole(block)
                part.copy(from: bytes.span.bytes.extracting(inside..<inside + count))
            }
            done += count
        }
    }

    /// The whole block, from the cache or decompressed into it: a block that is read in part is likely to be
    /// read again.
    private func whole(_ block: Int) throws(BlockError) -> [UInt8] {
        let known = recent.withLock { $0.block == block ? $0.bytes : nil }
        if let known { return known }
        let bytes = try [UInt8](zeroed: blockBytes) { (bytes) throws(BlockError) in
            try decompress(block, into: &bytes)
        }
        recent.withLock { $0 = (block, bytes) }
        return bytes
    }

    private func decompress(_ block: Int, into output: inout MutableRawSpan) throws(BlockError) {
        let range = offsets[block]..<offsets[block + 1]
        if try file.storedCount(at: range.lowerBound, count: range.count) < range.count {
            throw try file.cutError(end: offsets.last ?? range.upperBound, at: range.lowerBound)
        }
        do throws(BlockError) {
            let bytes = try file.readBytes(at: range.lowerBound, count: range.count)
            try Deflate.decompressZlib(bytes.span.bytes, into: &output)
        } catch {
            guard error.kind == .corrupt else { throw error }
            throw BlockError(
                .corrupt, "Block \(block) cannot be decompressed: \(error.message)", path: file.filename,
                offset: range.lowerBound)
        }
    }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        FormatInfo(
            specific: [
                InfoField("block-size", .number(blockBytes)), InfoField("blocks", .number(offsets.count - 1)),
            ])
    }
}

extension CloopDriver: Checkable {
    /// Checks that every block decompresses.
    ///
    /// Opening the image has validated the offsets.
    ///
    /// - Throws: `unsupported` for a repair; `io`, `limit`.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try refuseRepair(repair)
        var result = CheckResult()
        result.totalClusters = offsets.count - 1
        result.allocatedClusters = result.totalClusters
        result.compressedClusters = result.totalClusters
        result.imageEndOffset = offsets.last
        let buffer = AlignedBuffer(count: blockBytes)
        for block in 0..<result.totalClusters {
            var bytes = buffer.mutableBytes
            do throws(BlockError) { try decompress(block, into: &bytes) } catch {
                if error.kind == .corrupt { result.corruptions += 1 } else { result.checkErrors += 1 }
                report("ERROR \(error.message)")
            }
        }
        return result
    }
}
