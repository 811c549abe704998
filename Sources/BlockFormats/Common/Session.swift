import BlockCore
import Synchronization

/// An open image's tables, their lock and the requests in flight. Every format with tables uses it between
/// opening and closing.
///
/// A request takes space under the lock (``begin(_:_:)``), moves its bytes without it, and ends under it
/// again (``end(_:_:)``). A change of the tables as a whole waits until no request is in flight
/// (``exclusively(_:)``). Thread-safe. Lock order: the node's range, then this lock, then ``TableWrites``,
/// then the file's own.
final class Session<State: SessionState>: Sendable {
    private struct Guarded: Sendable {
        var state: State
        /// The number of requests between ``begin(_:_:)`` and ``end(_:_:)``.
        var inFlight = 0
        /// The units that those requests fill; only in formats whose units are larger than the node's write
        /// ranges.
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

    /// The size of the disk in bytes, as of the last time that no exclusive change was under way. Read
    /// without the lock.
    var virtualSize: Int { size.load(ordering: .relaxed) }
    /// The backing file that the image names, as of the same time.
    var backing: BackingReference? { reference.withLock { $0 } }

    /// Runs `body` with the lock held.
    func withLock<Result, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try monitor.withLock { (guarded) throws(Failure) in try body(&guarded.state) }
    }

    /// Runs `body` when no request is in flight and the changes that a flush took out are written; then
    /// publishes the disk's size and backing file, which `body` may have changed.
    ///
    /// - Throws: the errors of `body`; `io`, `noSpace` of a flush that is completed first.
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

    /// Begins a request on `guest`: `body` takes the space that it needs. Waits while other requests fill the
    /// same units.
    ///
    /// - Throws: the errors of `body`; the request is not in flight then.
    func begin(
        _ guest: Range<Int>, _ body: (inout State) throws(BlockError) -> WriteGrant
    ) throws(BlockError) -> WriteGrant {
        try monitor.wait(until: { !Self.isFilled(guest, &$0) }) { (guarded) throws(BlockError) in
            let grant = try body(&guarded.state)
            note(grant, &guarded)
            return grant
        }
    }

    /// As ``begin(_:_:)``, for a step of clearing, which `body` may already complete.
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

    /// Ends a request under the lock, and wakes the requests that wait for it.
    ///
    /// - Throws: the errors of `body`; the request has ended all the same.
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

    /// Links a grant: the tables refer to its space afterwards. The part that cannot be linked is given back.
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

    /// Gives back the space of a grant.
    func giveBack(_ grant: WriteGrant) { end(grant) { $0.giveBack(grant) } }

    // MARK: Life

    /// Makes all changes made before the call durable. The lock is released while the file is written and
    /// flushed.
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
            // The changes that another flush took out lack those made since, so a second one is needed.
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

    /// Writes all changes of the tables to the file without making the last of them durable. The next flush
    /// does that; until then they stay in memory too.
    ///
    /// - Throws: `io`, `noSpace`.
    func flushToSystem() throws(BlockError) {
        while true {
            let (earlier, mine) = try withLock { (state) throws(BlockError) -> (TableWrites?, TableWrites?) in
                if state.isReadOnly { return (nil, nil) }
                if let writes = state.writes { return (writes, nil) }
                state.writes = try state.takeChanges()
                return (nil, state.writes)
            }
            if let earlier {
                let failed = (try? earlier.complete()) == nil
                withLock { $0.settle(earlier, failed: failed) }
                continue
            }
            do throws(BlockError) { return try mine?.writeOut() ?? () } catch {
                withLock { state in
                    if let mine { state.settle(mine, failed: true) }
                }
                throw error
            }
        }
    }

    /// Takes the tables of `fresh`, a session that was just opened read-only on the same file, instead of the
    /// present ones, which were read earlier.
    ///
    /// - Throws: `invalidArgument` unless this session is read-only: another one may hold changes;
    ///   `unsupported` while it shows a snapshot, instead of which `fresh` has the present disk.
    func takeTables(of fresh: Session) throws(BlockError) {
        let tables = fresh.withLock { $0 }
        try exclusively { (state) throws(BlockError) in
            guard state.isReadOnly else {
                throw BlockError(.invalidArgument, "The tables of a writable image are not read again")
            }
            guard !state.showsSnapshot else {
                throw BlockError(
                    .unsupported, "An image that shows a snapshot must be opened again to see changes")
            }
            state = tables
        }
    }

    /// Brings the file to the state of a closed image, and closes the files that the state opened, also after
    /// a failure.
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

    /// Called before the files are reopened: writes all changes back when they become read-only.
    ///
    /// - Throws: `io`, `noSpace` when changes cannot be written back; the session is unchanged.
    func willReopen(readOnly: Bool) throws(BlockError) {
        try exclusively { (state) throws(BlockError) in
            guard readOnly else { return try state.checkWritable() }
            try state.finish()
            state.isReadOnly = true
        }
    }

    /// Called after the files were reopened, or after that failed and they are open as before.
    ///
    /// - Throws: the reason for which the image cannot be written to; the session is read-only then.
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
