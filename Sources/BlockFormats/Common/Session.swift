import BlockCore
import Synchronization

/// An open image's tables, their lock and the requests in flight: what every format with tables shares
/// between opening and closing.
///
/// A request takes space under the lock (``begin(_:_:)``), moves its bytes without it, and ends under it
/// again (``end(_:_:)``). Whoever changes tables as a whole waits until none is in between
/// (``exclusively(_:)``). Thread-safe. Lock order: the node's range, then this lock, then ``TableWrites``,
/// then the file's own.
final class Session<State: SessionState>: Sendable {
    private struct Guarded: Sendable {
        var state: State
        /// Requests between their two holds of the lock.
        var inFlight = 0
        /// The units that they fill, of formats whose units are not those of the node's ranges.
        var fills: [Range<Int>] = []
    }

    private let monitor: Monitor<Guarded>
    private let size: Atomic<Int>
    private let reference: Mutex<BackingReference?>

    init(_ state: State) {
        size = Atomic(state.virtualSize)
        reference = Mutex(state.backing)
        monitor = Monitor(Guarded(state: state))
    }

    /// The size of the disk in bytes, as the tables had it when they were last at rest.
    var virtualSize: Int { size.load(ordering: .relaxed) }
    /// The backing file that the image names, likewise.
    var backing: BackingReference? { reference.withLock { $0 } }

    /// Runs `body` with the lock held.
    func withLock<Result, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try monitor.withLock { (guarded) throws(Failure) in try body(&guarded.state) }
    }

    /// Runs `body` when no request is in flight and what a flush took out is written; then tells everybody
    /// the disk's size and backing file, which it may have changed.
    ///
    /// - Throws: what `body` throws; `io`, `noSpace` of a flush that is completed first.
    func exclusively<Result>(
        _ body: (inout State) throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        try monitor.wait(until: { $0.inFlight == 0 }) { (guarded) throws(BlockError) in
            defer { publish(guarded.state) }
            try guarded.state.finishWrites()
            return try body(&guarded.state)
        }
    }

    private func publish(_ state: State) {
        size.store(state.virtualSize, ordering: .relaxed)
        reference.withLock { $0 = state.backing }
    }

    // MARK: Requests

    /// Begins a request on `guest`: `body` takes what it needs. Waits while others fill the same units.
    ///
    /// - Throws: what `body` throws; nothing is in flight then.
    func begin(
        _ guest: Range<Int>, _ body: (inout State) throws(BlockError) -> WriteGrant
    ) throws(BlockError) -> WriteGrant {
        try monitor.wait(until: { !Self.isFilled(guest, &$0) }) { (guarded) throws(BlockError) in
            let grant = try body(&guarded.state)
            note(grant, &guarded)
            return grant
        }
    }

    /// As ``begin(_:_:)``, for a step of clearing, which may be done at once.
    func step(
        _ guest: Range<Int>, _ body: (inout State) throws(BlockError) -> ClearStep
    ) throws(BlockError) -> ClearStep {
        try monitor.wait(until: { !Self.isFilled(guest, &$0) }) { (guarded) throws(BlockError) in
            let step = try body(&guarded.state)
            switch step.action {
            case .zero(let grant), .discard(let grant): note(grant, &guarded)
            case .done, .store: break
            }
            return step
        }
    }

    private func note(_ grant: WriteGrant, _ guarded: inout Guarded) {
        guarded.inFlight += 1
        if grant.units != grant.guest, State.unitsOverlap { guarded.fills.append(grant.units) }
    }

    private static func isFilled(_ guest: Range<Int>, _ guarded: inout Guarded) -> Bool {
        guard State.unitsOverlap, !guarded.fills.isEmpty else { return false }
        let units = guarded.state.units(around: guest)
        return guarded.fills.contains { $0.overlaps(units) }
    }

    /// Ends a request that began, with the lock held, and lets those go on who wait for it.
    ///
    /// - Throws: what `body` throws; the request is over all the same.
    func end<Failure: Error>(
        _ grant: WriteGrant, _ body: (inout State) throws(Failure) -> Void
    ) throws(Failure) {
        defer { monitor.notifyAll() }
        try monitor.withLock { (guarded) throws(Failure) in
            guarded.inFlight -= 1
            if let index = guarded.fills.firstIndex(of: grant.units) { guarded.fills.remove(at: index) }
            try body(&guarded.state)
        }
    }

    /// Has the tables refer to what was granted; what cannot be linked is given back.
    ///
    /// - Throws: `noSpace`, `io`, `corrupt`.
    func link(_ grant: WriteGrant) throws(BlockError) {
        try end(grant) { (state) throws(BlockError) in
            var rest = grant
            do throws(BlockError) { try state.link(&rest) } catch {
                state.giveBack(rest)
                throw error
            }
        }
    }

    /// Gives back what was granted.
    func giveBack(_ grant: WriteGrant) { end(grant) { $0.giveBack(grant) } }

    // MARK: Life

    /// Makes everything durable that was there before the call, without the lock while the file is written
    /// and flushed.
    ///
    /// - Throws: `io`, `noSpace`.
    func flush() throws(BlockError) {
        while true {
            let (earlier, mine) = try withLock { (state) throws(BlockError) -> (TableWrites?, TableWrites?) in
                if state.isReadOnly { return (nil, nil) }
                if let writes = state.writes { return (writes, nil) }
                state.writes = try state.takeChanges()
                return (nil, state.writes)
            }
            // What another flush took out does not have what was written since.
            if let earlier {
                let failed = (try? earlier.complete()) == nil
                withLock { $0.settle(earlier, failed: failed) }
                continue
            }
            guard let mine else { return }
            do throws(BlockError) { try mine.complete() } catch {
                withLock { $0.settle(mine, failed: true) }
                throw error
            }
            return withLock { $0.settle(mine, failed: false) }
        }
    }

    /// Leaves the file as a closed image is, and closes what the state has opened, whatever fails.
    ///
    /// - Throws: the first failure.
    func close() throws(BlockError) {
        try monitor.wait(until: { $0.inFlight == 0 }) { (guarded) throws(BlockError) in
            var failures = FirstFailure()
            failures.note { () throws(BlockError) in try guarded.state.finishWrites() }
            failures.note { () throws(BlockError) in
                if !guarded.state.isReadOnly { try guarded.state.finish() }
            }
            failures.note { () throws(BlockError) in try guarded.state.closeFiles() }
            try failures.throwFirst()
        }
    }

    /// Before the files are reopened: writes back before they become read-only.
    ///
    /// - Throws: what cannot be written back; the session is as it was.
    func willReopen(readOnly: Bool) throws(BlockError) {
        try exclusively { (state) throws(BlockError) in
            guard readOnly else { return try state.checkWritable() }
            try state.finish()
            state.isReadOnly = true
        }
    }

    /// After the files were reopened, or are as they were because that failed.
    ///
    /// - Throws: what makes the image one that cannot be written to; the session is read-only then.
    func didReopen(readOnly: Bool) throws(BlockError) {
        try exclusively { (state) throws(BlockError) in
            guard !readOnly else {
                state.isReadOnly = true
                return
            }
            state.isReadOnly = false
            do throws(BlockError) { try state.prepareForWriting() } catch {
                state.abandonChanges()
                state.isReadOnly = true
                throw error
            }
        }
    }
}
