import BlockCore
import Synchronization

/// A growable file in memory, for tests and scratch work.
///
/// Thread-safe.
public final class MemoryDriver: ProtocolDriver {
    public static let name = "memory"
    /// The largest length in bytes; a request past it fails with `noSpace`.
    public static let maximumBytes = 1 << 32

    private let contents: Mutex<[UInt8]>

    /// A file with these bytes.
    public init(_ bytes: [UInt8] = []) { contents = Mutex(bytes) }

    /// A copy of all bytes.
    public var snapshot: [UInt8] { contents.withLock { $0 } }

    /// - Throws: nothing.
    public func length() throws(BlockError) -> Int { contents.withLock { $0.count } }

    /// - Throws: nothing.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let wanted = buffer.byteCount
        // Copies only the requested part: a second reference to all bytes would make the next write copy
        // them.
        let part = contents.withLock { bytes in
            Array(bytes[min(offset, bytes.count)..<min(offset + wanted, bytes.count)])
        }
        var tail = buffer.slice(part.count..<wanted)
        tail.fill()
        if !part.isEmpty { buffer.copy(from: part.span.bytes) }
    }

    /// - Throws: `noSpace` past ``maximumBytes``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let data = bytes.array
        try checkRange(offset, data.count)
        contents.withLock { contents in
            let end = offset + data.count
            if contents.count < end {
                contents.append(contentsOf: repeatElement(0, count: end - contents.count))
            }
            contents.replaceSubrange(offset..<end, with: data)
        }
    }

    /// - Throws: `noSpace` past ``maximumBytes``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try checkRange(offset, count)
        try write([UInt8](repeating: 0, count: count).span.bytes, at: offset)
    }

    /// - Throws: nothing.
    public func discard(at offset: Int, count: Int) throws(BlockError) {}

    /// - Throws: `noSpace` past ``maximumBytes``.
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try checkRange(0, length)
        contents.withLock { contents in
            if contents.count > length {
                contents.removeLast(contents.count - length)
            } else {
                contents.append(contentsOf: repeatElement(0, count: length - contents.count))
            }
        }
    }

    /// - Throws: nothing.
    public func flush() throws(BlockError) {}

    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: offset), length: limit)
    }

    /// - Throws: nothing.
    public func reopen(readOnly: Bool) throws(BlockError) {}
    public func close() {}

    private func checkRange(_ offset: Int, _ count: Int) throws(BlockError) {
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard offset >= 0, count >= 0, !overflow, end <= Self.maximumBytes else {
            throw BlockError(.noSpace, "No space left on device", offset: offset)
        }
    }
}
