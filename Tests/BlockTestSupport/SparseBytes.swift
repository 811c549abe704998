import BlockCore
import BlockProtocols
import Foundation

/// A long row of bytes of which only the parts that were written take memory.
///
/// A value type: copies are cheap until they are changed. Offsets and lengths are in bytes.
public struct SparseBytes: Sendable {
    static let chunkBytes = 4096

    private var chunks: [Int: [UInt8]] = [:]
    /// The length in bytes.
    public private(set) var count: Int

    /// `count` zero bytes.
    public init(count: Int = 0) { self.count = count }

    public init(_ bytes: [UInt8]) {
        count = 0
        write(bytes, at: 0)
    }

    /// The bytes of a file; its holes are not read.
    public init(contentsOf path: String) throws {
        let file = try FileDriver(opening: path, settings: OpenSettings(forceShare: true))
        defer { file.close() }
        count = try file.length()
        var offset = 0
        while offset < count {
            let extent = try file.extent(at: offset, limit: count - offset)
            let end = offset + extent.length
            while offset < end, extent.status == .data(hostOffset: end - extent.length) {
                var part = [UInt8](repeating: 0, count: min(1 << 20, end - offset))
                var elements = part.mutableSpan
                var span = elements.mutableBytes
                try file.read(into: &span, at: offset)
                write(part, at: offset)
                offset += part.count
            }
            offset = end
        }
    }

    /// The bytes at `offset`; past the end there are zeroes.
    public func read(at offset: Int, count: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        result.withUnsafeMutableBytes { read(into: $0, at: offset) }
        return result
    }

    /// Fills `target` from `offset`; past the end there are zeroes.
    public func read(into target: UnsafeMutableRawBufferPointer, at offset: Int) {
        Self.eachPart(offset, target.count) { chunk, inside, done in
            let part = UnsafeMutableRawBufferPointer(rebasing: target[done..<done + inside.count])
            if let bytes = chunks[chunk] {
                bytes.withUnsafeBytes { part.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[inside])) }
            } else {
                part.initializeMemory(as: UInt8.self, repeating: 0)
            }
        }
    }

    /// Stores `bytes` at `offset`, growing as needed.
    public mutating func write(_ bytes: [UInt8], at offset: Int) {
        bytes.withUnsafeBytes { write($0, at: offset) }
    }

    /// Stores `source` at `offset`, growing as needed.
    public mutating func write(_ source: UnsafeRawBufferPointer, at offset: Int) {
        Self.eachPart(offset, source.count) { chunk, inside, done in
            let part = UnsafeRawBufferPointer(rebasing: source[done..<done + inside.count])
            chunks[chunk, default: Self.zeroChunk].withUnsafeMutableBytes {
                UnsafeMutableRawBufferPointer(rebasing: $0[inside]).copyMemory(from: part)
            }
        }
        count = max(count, offset + source.count)
    }

    /// How many parts take memory, as blocks of a disk would.
    var storedChunks: Int { chunks.count }

    /// How many of the first bytes of a range can be written with `free` more parts.
    func fittingBytes(_ range: Range<Int>, free: Int) -> Int {
        var left = free
        var fitting = 0
        Self.eachPart(range.lowerBound, range.count) { chunk, inside, done in
            if left >= 0, chunks[chunk] == nil { left -= 1 }
            if left >= 0 { fitting = done + inside.count }
        }
        return fitting
    }

    /// Makes a range zero, growing as needed.
    public mutating func zero(_ range: Range<Int>) {
        Self.eachPart(range.lowerBound, range.count) { chunk, inside, _ in
            if inside.count == Self.chunkBytes {
                chunks[chunk] = nil
            } else if chunks[chunk] != nil {
                chunks[chunk, default: Self.zeroChunk].replaceSubrange(
                    inside, with: repeatElement(0, count: inside.count))
            }
        }
        count = max(count, range.upperBound)
    }

    /// Cuts off or adds zero bytes at the end.
    public mutating func resize(to length: Int) {
        if length < count {
            let chunk = length / Self.chunkBytes
            for index in chunks.keys where index > chunk { chunks[index] = nil }
            zero(length..<(chunk + 1) * Self.chunkBytes)
        }
        count = length
    }

    /// Whether nothing is stored at `offset`, and for how many bytes (at most `limit`) that stays so.
    public func hole(at offset: Int, limit: Int) -> (isHole: Bool, length: Int) {
        let isHole = chunks[offset / Self.chunkBytes] == nil
        if isHole, limit / Self.chunkBytes > chunks.count {
            // A long hole, and few parts that could end it.
            let next = chunks.keys.lazy.filter { $0 > offset / Self.chunkBytes }.min()
            return (true, min(limit, (next ?? .max / Self.chunkBytes) * Self.chunkBytes - offset))
        }
        var end = offset
        while end < offset + limit, (chunks[end / Self.chunkBytes] == nil) == isHole {
            end = (end / Self.chunkBytes + 1) * Self.chunkBytes
        }
        return (isHole, min(end - offset, limit))
    }

    /// Calls `body` with every part that was written, in the order of offsets.
    public func eachStoredChunk(_ body: (_ offset: Int, _ bytes: ArraySlice<UInt8>) throws -> Void) rethrows {
        for index in chunks.keys.sorted() {
            let start = index * Self.chunkBytes
            guard let chunk = chunks[index], start < count else { continue }
            try body(start, chunk.prefix(count - start))
        }
    }

    /// Stores the bytes in a file; what was never written stays a hole.
    public func store(at path: String) throws {
        let url = URL(filePath: path)
        try Data().write(to: url)
        let file = try FileHandle(forWritingTo: url)
        defer { try? file.close() }
        try eachStoredChunk { offset, chunk in
            try file.seek(toOffset: UInt64(offset))
            try file.write(contentsOf: Data(chunk))
        }
        try file.truncate(atOffset: UInt64(count))
    }

    private static let zeroChunk = [UInt8](repeating: 0, count: chunkBytes)

    /// Splits a range at chunk borders: chunk number, range inside the chunk, bytes before it.
    private static func eachPart(_ offset: Int, _ count: Int, _ body: (Int, Range<Int>, Int) -> Void) {
        var done = 0
        while done < count {
            let inside = (offset + done) % chunkBytes
            let length = min(chunkBytes - inside, count - done)
            body((offset + done) / chunkBytes, inside..<inside + length, done)
            done += length
        }
    }
}

extension SparseBytes: Equatable {
    public static func == (left: SparseBytes, right: SparseBytes) -> Bool {
        guard left.count == right.count else { return false }
        return Set(left.chunks.keys).union(right.chunks.keys).allSatisfy {
            left.chunks[$0] ?? zeroChunk == right.chunks[$0] ?? zeroChunk
        }
    }
}
