import Synchronization

/// Counts of a node's operations.
///
/// Thread-safe; counts that are read together need not be of the same moment.
public final class NodeStatistics: Sendable {
    /// The kinds of operations, each with counts of its own.
    public enum Operation: Int, Sendable, CaseIterable { case read, write, flush, discard }

    /// The counts of one kind of operation.
    public struct Counts: Sendable, Equatable {
        /// The number of operations that have ended.
        public var operations: Int
        /// The bytes that they transferred.
        public var bytes: Int
        /// Time spent in requests, in nanoseconds; overlapping requests add up.
        public var nanoseconds: Int
    }

    private let reads = Row()
    private let writes = Row()
    private let flushes = Row()
    private let discards = Row()
    private let highest = Atomic<Int>(0)
    /// Timing costs two clock readings a request, so it is off unless requested.
    private let timed = Atomic<Bool>(false)

    private final class Row: Sendable {
        let operations = Atomic<Int>(0)
        let bytes = Atomic<Int>(0)
        let nanoseconds = Atomic<Int>(0)
    }

    init() {}

    /// Whether time is measured too; `false` at first.
    public var measuresTime: Bool {
        get { timed.load(ordering: .relaxed) }
        set { timed.store(newValue, ordering: .relaxed) }
    }

    /// One past the highest byte ever written, as an offset in bytes.
    public var highestWrittenOffset: Int { highest.load(ordering: .relaxed) }

    /// The counts of one kind of operation so far.
    public func counts(of operation: Operation) -> Counts {
        let row = row(operation)
        return Counts(
            operations: row.operations.load(ordering: .relaxed), bytes: row.bytes.load(ordering: .relaxed),
            nanoseconds: row.nanoseconds.load(ordering: .relaxed))
    }

    func now() -> ContinuousClock.Instant? { measuresTime ? ContinuousClock.now : nil }

    func count(_ operation: Operation, bytes: Int, since began: ContinuousClock.Instant?) {
        let row = row(operation)
        row.operations.wrappingAdd(1, ordering: .relaxed)
        row.bytes.wrappingAdd(bytes, ordering: .relaxed)
        if let began {
            let spent = (ContinuousClock.now - began).components
            row.nanoseconds.wrappingAdd(
                Int(spent.seconds) * 1_000_000_000 + Int(spent.attoseconds / 1_000_000_000),
                ordering: .relaxed)
        }
    }

    func noteWritten(upTo offset: Int) { _ = highest.max(offset, ordering: .relaxed) }

    private func row(_ operation: Operation) -> Row {
        switch operation {
        case .read: reads
        case .write: writes
        case .flush: flushes
        case .discard: discards
        }
    }
}
