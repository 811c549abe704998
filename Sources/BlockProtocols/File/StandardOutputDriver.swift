import BlockCore
import Synchronization
import SystemPackage

/// A stream that takes bytes in order, such as standard output. Thread-safe, but requests must come in order.
///
/// Space that is skipped is written as zeroes. What was written cannot be read or changed.
public final class StandardOutputDriver: ProtocolDriver {
    public static let name = "stdout"

    private static let zeroes = AlignedBuffer(count: 256 << 10, zeroed: true)
    private let descriptor: Int32
    private let gate = Gate()
    private let position = Atomic<Int>(0)

    /// - Parameter descriptor: open for writing; stays open when the driver is closed.
    public init(descriptor: Int32 = 1) { self.descriptor = descriptor }

    /// How many bytes have been written.
    public func length() throws(BlockError) -> Int { position.load(ordering: .acquiring) }

    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        throw unsupported("Cannot read from standard output", offset)
    }

    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        gate.enter()
        defer { gate.leave() }
        try pad(to: offset)
        try append(bytes)
    }

    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        guard !flags.contains(.noFallback) else { throw unsupported("Operation not supported", offset) }
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard !overflow else { throw .system(.fileTooLarge, path: "-", offset: offset) }
        gate.enter()
        defer { gate.leave() }
        try pad(to: offset)
        try pad(to: end)
    }

    /// Nothing can be given back.
    public func discard(at offset: Int, count: Int) throws(BlockError) {}

    /// Writes zeroes up to `length`.
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        gate.enter()
        defer { gate.leave() }
        try pad(to: length)
    }

    /// Nothing is buffered here.
    public func flush() throws(BlockError) {}

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: offset), length: limit)
    }

    public func reopen(readOnly: Bool) throws(BlockError) {
        if readOnly { throw unsupported("Cannot read from standard output", 0) }
    }

    public func close() {}

    /// Writes zeroes from the position up to `offset`. The gate is held.
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
