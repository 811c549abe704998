import BlockCore
import Synchronization

/// Remembers what was done to a file, in order, for tests. Thread-safe. Only what succeeded is recorded.
public final class LogDriver: FilterDriver {
    public static let name = "log"

    /// One change, or one request for durability.
    public enum Operation: Sendable, Equatable {
        case write(offset: Int, bytes: [UInt8])
        case writeZeroes(offset: Int, count: Int, flags: ZeroFlags)
        case discard(offset: Int, count: Int)
        case truncate(length: Int, preallocation: Preallocation)
        case flush
    }

    public let below: any ProtocolDriver
    private let recorded = Mutex<[Operation]>([])

    public init(over below: any ProtocolDriver) { self.below = below }

    /// All that was recorded so far.
    public var operations: [Operation] { recorded.withLock { $0 } }

    /// Starts over with an empty record.
    public func clear() { recorded.withLock { $0 = [] } }

    private func record(_ operation: Operation) { recorded.withLock { $0.append(operation) } }

    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try below.write(bytes, at: offset)
        record(.write(offset: offset, bytes: bytes.array))
    }

    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try below.writeZeroes(at: offset, count: count, flags: flags)
        record(.writeZeroes(offset: offset, count: count, flags: flags))
    }

    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try below.discard(at: offset, count: count)
        record(.discard(offset: offset, count: count))
    }

    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try below.truncate(to: length, preallocation: preallocation)
        record(.truncate(length: length, preallocation: preallocation))
    }

    public func flush() throws(BlockError) {
        try below.flush()
        record(.flush)
    }
}
