import Synchronization

/// Counts of a node's requests.
///
/// Thread-safe; counts that are read together need not be of the same moment.
///
/// Numbers of requests and bytes are always counted. Times, histograms and intervals cost two clock readings
/// a request, so they are off until ``measuresTime``, ``setHistogram(borders:of:)`` or
/// ``setIntervals(seconds:)`` asks for them.
public final class NodeStatistics: Sendable {
    /// The kinds of requests, each with counts of its own.
    ///
    /// Zeroing counts as writing.
    public enum Operation: Int, Sendable, CaseIterable { case read, write, flush, discard }

    /// The counts of one kind of request.
    public struct Counts: Sendable, Equatable {
        /// The requests that succeeded.
        public var operations: Int
        /// The bytes that they transferred.
        public var bytes: Int
        /// Time spent in requests, failed ones too, in nanoseconds; overlapping requests add up.
        ///
        /// The wait for limits is part of it.
        public var nanoseconds: Int
        /// The requests that were merged with others before they came here: see
        /// ``NodeStatistics/noteMerged(_:count:)``.
        public var merged: Int
        /// The requests that failed on their way to the disk.
        public var failed: Int
        /// The requests that the node refused: outside the disk, on a read-only or closed node.
        public var invalid: Int
    }

    private let reads = Row()
    private let writes = Row()
    private let flushes = Row()
    private let discards = Row()
    private let highest = Atomic<Int>(0)
    /// Whether ``latencies`` has to hear of requests.
    private let isTimed = Atomic<Bool>(false)
    private let latencies = Mutex(LatencyRecord())

    private final class Row: Sendable {
        let operations = Atomic<Int>(0)
        let bytes = Atomic<Int>(0)
        let merged = Atomic<Int>(0)
        let failed = Atomic<Int>(0)
        let invalid = Atomic<Int>(0)

        func reset() {
            operations.store(0, ordering: .relaxed)
            bytes.store(0, ordering: .relaxed)
            merged.store(0, ordering: .relaxed)
            failed.store(0, ordering: .relaxed)
            invalid.store(0, ordering: .relaxed)
        }
    }

    init() {}

    // MARK: Counts

    /// One past the highest byte ever written, as an offset in bytes.
    public var highestWrittenOffset: Int { highest.load(ordering: .relaxed) }

    /// The counts of one kind of request so far.
    public func counts(of operation: Operation) -> Counts {
        let row = row(operation)
        return Counts(
            operations: row.operations.load(ordering: .relaxed), bytes: row.bytes.load(ordering: .relaxed),
            nanoseconds: latencies.withLock { $0.nanoseconds(of: operation) },
            merged: row.merged.load(ordering: .relaxed), failed: row.failed.load(ordering: .relaxed),
            invalid: row.invalid.load(ordering: .relaxed))
    }

    /// Counts requests that a caller merged into others before it made these.
    public func noteMerged(_ operation: Operation, count: Int = 1) {
        row(operation).merged.wrappingAdd(count, ordering: .relaxed)
    }

    /// Sets all counts, times and histograms to zero.
    ///
    /// What is measured stays so.
    public func reset() {
        for operation in Operation.allCases { row(operation).reset() }
        highest.store(0, ordering: .relaxed)
        latencies.withLock { $0.reset() }
    }

    // MARK: Times

    /// Whether time is measured; `false` at first.
    ///
    /// Stays `true` while there are histograms or intervals.
    public var measuresTime: Bool {
        get { isTimed.load(ordering: .relaxed) }
        set { change { $0.isRequested = newValue } }
    }

    /// The clock by which time is measured.
    public var clock: any BlockClock {
        get { latencies.withLock { $0.clock } }
        set { change { $0.clock = newValue } }
    }

    /// The nanoseconds since the last request ended; `nil` before the first one that was measured.
    public var idleNanoseconds: Int? { latencies.withLock { $0.idleNanoseconds } }

    /// Counts the latencies of further requests of that kind in a histogram, from zero on.
    ///
    /// - Parameter borders: the borders between its bins, in nanoseconds, in ascending order; `nil` for no
    ///   histogram.
    /// - Throws: `invalidArgument` for borders that do not ascend from a positive number; `limit` for more
    ///   than ``LatencyHistogram/maximumBorders``.
    public func setHistogram(borders: [Int]?, of operation: Operation) throws(BlockError) {
        var histogram: LatencyHistogram?
        if let borders { histogram = try LatencyHistogram(borders: borders) }
        change { $0.histograms[operation] = histogram }
    }

    /// The histogram of that kind of request, if there is one.
    public func histogram(of operation: Operation) -> LatencyHistogram? {
        latencies.withLock { $0.histograms[operation] }
    }

    /// Keeps the latencies of the last so many seconds, for each of these lengths, from now on.
    ///
    /// - Throws: `invalidArgument` for a length outside 1...``LatencyWindow/maximumSeconds``; `limit` for
    ///   more than ``LatencyWindow/maximumWindows``.
    public func setIntervals(seconds: [Int]) throws(BlockError) {
        try LatencyWindow.check(seconds)
        change { $0.setIntervals(seconds: seconds) }
    }

    /// The latencies of that kind of request in the last seconds, for each length of
    /// ``setIntervals(seconds:)``.
    public func intervals(of operation: Operation) -> [LatencyWindow.Summary] {
        latencies.withLock { $0.summaries(of: operation) }
    }

    private func change(_ body: (inout LatencyRecord) -> Void) {
        let isNeeded = latencies.withLock { record in
            body(&record)
            return record.isNeeded
        }
        isTimed.store(isNeeded, ordering: .relaxed)
    }

    // MARK: For the node

    /// The time at the beginning of a request, in nanoseconds; `nil` when time is not measured.
    @inline(__always)
    func now() -> Int? { isTimed.load(ordering: .relaxed) ? clock.now() : nil }

    /// Counts a request that succeeded.
    @inline(__always)
    func count(_ operation: Operation, bytes: Int, since began: Int?) {
        let row = row(operation)
        row.operations.wrappingAdd(1, ordering: .relaxed)
        row.bytes.wrappingAdd(bytes, ordering: .relaxed)
        if let began { latencies.withLock { $0.note(operation, since: began) } }
    }

    /// Counts a request that did not succeed.
    func countFailure(_ operation: Operation, isInvalid: Bool, since began: Int?) {
        let row = row(operation)
        if isInvalid {
            row.invalid.wrappingAdd(1, ordering: .relaxed)
        } else {
            row.failed.wrappingAdd(1, ordering: .relaxed)
            if let began { latencies.withLock { $0.note(operation, since: began) } }
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
