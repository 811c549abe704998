import BlockCore
import Synchronization
import SystemPackage

/// A stream that accepts bytes in order only, such as standard output.
///
/// Thread-safe, but writes must have ascending offsets.
///
/// Skipped space is written as zeroes. Written bytes cannot be read or changed.
public final class StandardOutputDriver: ProtocolDriver {
    public static let name = "stdout"

    private static let zeroes = AlignedBuffer(count: 256 << 10, zeroed: true)
    private let descriptor: Int32
    private let gate = Gate()
    private let position = Atomic<Int>(0)

    /// - Parameter descriptor: open for writing; closing the driver leaves it open.
    public init(descriptor: Int32 = 1) { self.descriptor = descriptor }

    /// The number of bytes written so far.
    ///
    /// - Throws: nothing.
    public func length() throws(BlockError) -> Int { position.load(ordering: .acquiring) }

    /// - Throws: `unsupported`.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        throw unsupported("Cannot read from standard output", offset)
    }

    /// - Throws: `unsupported` before the present position; `io`, `noSpace`.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        gate.enter()
        defer { gate.leave() }
        try pad(to: offset)
        try append(bytes)
    }

    /// - Throws: `unsupported` before the present position and with ``ZeroFlags/noFallback``; `io`,
    ///   `noSpace`.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        guard !flags.contains(.noFallback) else { throw unsupported("Operation not supported", offset) }
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard !overflow else { throw .system(.fileTooLarge, path: "-", offset: offset) }
        gate.enter()
        defer { gate.leave() }
        try pad(to: offset)
        try pad(to: end)
    }

    /// Does nothing: a stream cannot give space back.
    ///
    /// - Throws: nothing.
    public func discard(at offset: Int, count: Int) throws(BlockError) {}

    /// Writes zeroes up to `length` bytes.
    ///
    /// - Throws: `unsupported` before the present position; `io`, `noSpace`.
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        gate.enter()
        defer { gate.leave() }
        try pad(to: length)
    }

    /// Does nothing: the driver has no buffer.
    ///
    /// - Throws: nothing.
    public func flush() throws(BlockError) {}

    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: offset), length: limit)
    }

    /// - Throws: `unsupported` for read-only.
    public func reopen(readOnly: Bool) throws(BlockError) {
        if readOnly { throw unsupported("Cannot read from standard output", 0) }
    }

    public func close() {}

    /// Writes zeroes from the present position up to `offset`. The caller holds the gate.
    private func pad(to offset: Int) throws(BlockError) {
        let start = position.load(ordering: .acquiring)
        guard offset >= start else { throw unsupported("Standard output takes bytes only in order", offset) }
        var left = offset - start
        while left > 0 {
            let count = min(left, Self.zeroes.count)
            try append(Self.zeroes.bytes(0..<count))
            left -= count
        }
    }

    private func append(_ bytes: RawSpan) throws(BlockError) {
        let start = position.load(ordering: .acquiring)
        do throws(Errno) { try PositionedIO.append(descriptor, bytes) } catch {
            throw .system(error, path: "-", offset: start)
        }
        position.store(start + bytes.byteCount, ordering: .releasing)
    }

    private func unsupported(_ message: String, _ offset: Int) -> BlockError {
        BlockError(.unsupported, message, path: "-", offset: offset)
    }
}
