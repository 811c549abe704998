import BlockCore
import Synchronization

/// Makes chosen calls fail, for tests.
///
/// Thread-safe. Copies between files are done by `read` and `write`.
public final class FaultDriver: FilterDriver {
    public static let name = "fault"

    /// The calls that are counted and can fail.
    public enum Call: Sendable, CaseIterable {
        case length, read, write, writeZeroes, discard, truncate, flush, extent
        /// The calls that change the file or make changes durable.
        public static let changing: Set<Call> = [.write, .writeZeroes, .discard, .truncate, .flush]
    }

    /// A fault that has not yet occurred.
    public struct Fault: Sendable {
        /// The calls that count and fail.
        public var calls: Set<Call>
        /// How many of these calls succeed before the fault.
        public var successes: Int
        /// The errno of the failure.
        public var code: Int32
        /// Whether all later calls fail too, as on a disk that stays full.
        public var persists: Bool
    }

    private struct State {
        var counts: [Call: Int] = [:]
        var faults: [Fault] = []
    }

    public let child: BlockNode
    private let state = Mutex(State())

    /// A filter over `child` that lets every call pass.
    public init(over child: BlockNode) { self.child = child }

    /// Makes the `number`-th call (from 1, counted from now) of those in `calls` fail with `code`.
    public func fail(
        _ number: Int, of calls: Set<Call> = Call.changing, with code: Int32, persists: Bool = false
    ) {
        let fault = Fault(calls: calls, successes: number - 1, code: code, persists: persists)
        state.withLock { $0.faults.append(fault) }
    }

    /// Removes all pending faults.
    public func heal() { state.withLock { $0.faults = [] } }

    /// The faults that have not yet occurred.
    public var pendingFaults: [Fault] { state.withLock { $0.faults } }

    /// How often `call` was made, failed calls included.
    public func count(of call: Call) -> Int { state.withLock { $0.counts[call, default: 0] } }

    private func pass(_ call: Call, at offset: Int? = nil) throws(BlockError) {
        let code = state.withLock { state -> Int32? in
            state.counts[call, default: 0] += 1
            let codes = state.faults.indices.compactMap { state.faults[$0].take(call) }
            state.faults.removeAll { $0.successes < 0 && !$0.persists }
            return codes.first
        }
        if let code { throw .system(errno: code, path: Self.name, offset: offset) }
    }

    /// - Throws: errors of the faults; as ``BlockNode/length()``.
    public func length() throws(BlockError) -> Int {
        try pass(.length)
        return try child.length()
    }

    /// - Throws: errors of the faults; as ``BlockNode/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try pass(.read, at: offset)
        try child.read(into: &buffer, at: offset)
    }

    /// - Throws: errors of the faults; as ``BlockNode/write(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try pass(.write, at: offset)
        try child.write(bytes, at: offset)
    }

    /// - Throws: errors of the faults; as ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try pass(.writeZeroes, at: offset)
        try child.writeZeroes(at: offset, count: count, flags: flags)
    }

    /// - Throws: errors of the faults; as ``BlockNode/discard(at:count:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try pass(.discard, at: offset)
        try child.discard(at: offset, count: count)
    }

    /// - Throws: errors of the faults; as ``BlockNode/resize(to:preallocation:)``.
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) {
        try pass(.truncate, at: size)
        try child.resize(to: size, preallocation: preallocation)
    }

    /// - Throws: errors of the faults; as ``BlockNode/flush()``.
    public func flush() throws(BlockError) {
        try pass(.flush)
        try child.flush()
    }

    /// - Throws: errors of the faults; as ``BlockNode/layerExtent(at:limit:)``.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try pass(.extent, at: offset)
        return try child.layerExtent(at: offset, limit: limit)
    }
}

extension FaultDriver.Fault {
    /// Counts one call, and returns the errno when it fails.
    fileprivate mutating func take(_ call: FaultDriver.Call) -> Int32? {
        guard calls.contains(call) else { return nil }
        successes = max(-1, successes - 1)
        return successes < 0 ? code : nil
    }
}
