/// Tracked requests: readers of a byte range share it, writers have it alone.
///
/// Lock order: a range is taken before any driver's metadata lock and never inside one.
/// Thread-safe. Ranges are half-open, in bytes.
final class RangeLock: Sendable {
    /// One request under way.
    struct Request {
        var range: Range<Int>
        var exclusive: Bool
        var id: Int
    }

    private struct State {
        var active: [Request] = []
        var nextID = 0

        func conflicts(_ range: Range<Int>, exclusive: Bool) -> Bool {
            active.contains { ($0.exclusive || exclusive) && $0.range.overlaps(range) }
        }
    }

    private let state = Monitor(State())

    /// Waits for conflicting requests to end, then registers this one and answers its ticket.
    func acquire(_ range: Range<Int>, exclusive: Bool) -> Int {
        state.wait(until: { !$0.conflicts(range, exclusive: exclusive) }) { state in
            state.nextID += 1
            state.active.append(Request(range: range, exclusive: exclusive, id: state.nextID))
            return state.nextID
        }
    }

    /// Ends the request with that ticket.
    func release(_ ticket: Int) {
        state.withLock { state in
            if let index = state.active.firstIndex(where: { $0.id == ticket }) {
                state.active.swapAt(index, state.active.count - 1)
                state.active.removeLast()
            }
        }
        state.notifyAll()
    }
}
