import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Tracked requests: readers share a byte range, writers have it alone, in the order of arrival.
///
/// A request waits for conflicting ones that are under way, and for earlier conflicting ones that wait too:
/// so a writer gets its turn however many readers follow. Only a thread that already holds a range here
/// overtakes waiting requests: one of these may be waiting for that thread. Requests of one thread never
/// conflict with each other: a job holds a range and reads and writes in it.
///
/// Lock order: a range is taken before any driver's metadata lock and never inside one; of two nodes, that of
/// the overlay before that of its base. Thread-safe. Ranges are half-open, in bytes.
final class RangeLock: Sendable {
    /// One request, under way or waiting.
    private struct Request {
        var range: Range<Int>
        var exclusive: Bool
        var id: Int
        var thread: UInt

        func conflicts(_ other: Request) -> Bool {
            (exclusive || other.exclusive) && range.overlaps(other.range) && thread != other.thread
        }
    }

    private struct State {
        var active: [Request] = []
        /// In the order of arrival.
        var waiting: [Request] = []
        var nextID = 0
        /// How many times one thread has called ``RangeLock/acquireAll()``.
        var depth = 0

        func mayBegin(_ request: Request) -> Bool {
            if active.contains(where: { $0.conflicts(request) }) { return false }
            if active.contains(where: { $0.thread == request.thread }) { return true }
            return !waiting.contains { $0.id < request.id && $0.conflicts(request) }
        }
    }

    private let state = Monitor(State())
    /// The number of readers that are counted instead of tracked. Negative during ``acquireAll()``.
    private let counted = Atomic<Int>(0)
    private static let closed = Int.min / 2
    /// Called when a request begins to wait: a test's event.
    private let onWait: @Sendable () -> Void

    init(onWait: @escaping @Sendable () -> Void = {}) { self.onWait = onWait }

    /// Waits for conflicting requests to end, then begins this one and returns its ticket.
    func acquire(_ range: Range<Int>, exclusive: Bool) -> Int {
        let thread = WorkerThreads.current
        let (request, hasBegun) = state.withLock { state in
            state.nextID += 1
            let request = Request(range: range, exclusive: exclusive, id: state.nextID, thread: thread)
            let mayBegin = state.mayBegin(request)
            if mayBegin { state.active.append(request) } else { state.waiting.append(request) }
            return (request, mayBegin)
        }
        if hasBegun { return request.id }
        onWait()
        return state.wait(until: { $0.mayBegin(request) }) { state in
            state.waiting.removeAll { $0.id == request.id }
            state.active.append(request)
            return request.id
        }
    }

    /// The number of waiting requests, for tests of the order.
    var waitingCount: Int { state.withLock { $0.waiting.count } }

    /// Ends the request with that ticket.
    func release(_ ticket: Int) {
        let someWait = state.withLock { state in
            if let index = state.active.firstIndex(where: { $0.id == ticket }) {
                state.active.swapAt(index, state.active.count - 1)
                state.active.removeLast()
            }
            return !state.waiting.isEmpty
        }
        if someWait { state.notifyAll() }
    }

    // MARK: All ranges

    /// Waits until no other request is under way. None begins before ``releaseAll(_:)``, except those of this
    /// thread, which may also call it again.
    func acquireAll() -> Int {
        let ticket = acquire(0..<Int.max, exclusive: true)
        let isFirst = state.withLock { state in
            state.depth += 1
            return state.depth == 1
        }
        if isFirst {
            counted.add(Self.closed, ordering: .sequentiallyConsistent)
            ScheduledThread.point()
            let isAlone = { self.counted.load(ordering: .sequentiallyConsistent) == Self.closed }
            state.wait(until: { _ in isAlone() }) { _ in }
        }
        return ticket
    }

    /// Ends the exclusive use that ``acquireAll()`` began.
    func releaseAll(_ ticket: Int) {
        let isLast = state.withLock { state in
            state.depth -= 1
            return state.depth == 0
        }
        if isLast { counted.subtract(Self.closed, ordering: .sequentiallyConsistent) }
        ScheduledThread.point()
        release(ticket)
    }

    // MARK: Counted readers

    /// Begins a read of a read-only disk without a ticket, which costs less: it conflicts only with
    /// ``acquireAll()``. `false` during ``acquireAll()``: then the read takes a ticket.
    func enter() -> Bool {
        let (_, now) = counted.add(1, ordering: .sequentiallyConsistent)
        ScheduledThread.point()
        if now > 0 { return true }
        leave()
        return false
    }

    /// Ends a read that ``enter()`` began.
    func leave() {
        let (_, now) = counted.subtract(1, ordering: .sequentiallyConsistent)
        guard now == Self.closed else { return }
        ScheduledThread.point()
        // Under the lock, so that a thread about to wait does not miss the change.
        state.withLock { _ in }
        state.notifyAll()
    }
}
