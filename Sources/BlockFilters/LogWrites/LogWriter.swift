import BlockCore

/// Appends entries to a log. Thread-safe.
///
/// Order of writes: an entry takes its sectors under the lock and is written without it. The number of
/// entries in the first sector counts those before the first one that is not yet written, so that a log
/// that ends abruptly holds no gap. A flush is counted, and the log itself flushed, before the guest's flush returns.
final class LogWriter: Sendable {
    private struct State {
        var nextSector: Int
        var entries: Int
        /// The numbers of the entries that have sectors and are not yet written.
        var unwritten: Set<Int> = []
        /// The number of entries in the first sector.
        var counted: Int
        var isCounting = false
        /// The failure of an entry: a log with a gap takes no more.
        var failure: BlockError?

        /// The number of entries without a gap.
        var complete: Int { unwritten.min() ?? entries }
    }

    let log: BlockNode
    let sectorBytes: Int
    private let countInterval: Int
    private let state: Monitor<State>

    /// A new log.
    ///
    /// - Parameter countInterval: the most entries that are not counted in the first sector.
    init(_ log: BlockNode, sectorBytes: Int, countInterval: Int) {
        self.log = log
        self.sectorBytes = sectorBytes
        self.countInterval = countInterval
        state = Monitor(State(nextSector: 1, entries: 0, counted: -1))
    }

    /// The log that `log` holds, to be appended to; a new one when it is empty.
    ///
    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`; `io`.
    /// - Complexity: O(*entries of the log*).
    init(appendingTo log: BlockNode, newSectorBytes: Int, countInterval: Int) throws(BlockError) {
        let length = try log.length()
        var header = LogHeader(entries: 0, sectorBytes: newSectorBytes)
        if length > 0 {
            let bytes = try log.readBytes(at: 0, count: LogWrites.headerBytes)
            header = try LogHeader(bytes.span.bytes, path: log.filename)
        }
        self.log = log
        sectorBytes = header.sectorBytes
        self.countInterval = countInterval
        let next = try Self.end(of: header, in: log, length)
        state = Monitor(
            State(nextSector: next, entries: header.entries, counted: length > 0 ? header.entries : -1))
    }

    /// The sector behind the last entry.
    private static func end(
        of header: LogHeader, in log: BlockNode, _ length: Int
    ) throws(BlockError) -> Int {
        let sectors = length / header.sectorBytes
        var next = 1
        for number in 0..<header.entries {
            guard next < max(sectors, 1) else {
                throw BlockError(
                    .corrupt, "Log entry \(number) is behind the end of the log", path: log.filename)
            }
            let bytes = try log.readBytes(at: next * header.sectorBytes, count: LogWrites.entryBytes)
            let entry = try LogEntry(bytes.span.bytes, number: number, path: log.filename)
            let (end, overflow) = next.addingReportingOverflow(entry.dataSectors)
            guard !overflow, end < sectors else {
                throw BlockError(
                    .corrupt, "Log entry \(number) is behind the end of the log", path: log.filename)
            }
            next = end + 1
        }
        return next
    }

    // MARK: Entries

    /// Appends an entry; `writeData` writes its data at an offset of the log, in bytes.
    ///
    /// - Throws: `io`, `noSpace`; also when an earlier entry failed.
    func append(
        _ entry: LogEntry, _ writeData: (Int) throws(BlockError) -> Void = { _ in }
    ) throws(BlockError) {
        let number = try write(entry, writeData)
        let isDue = state.withLock { $0.complete - $0.counted >= countInterval }
        if entry.flags.contains(.flush) {
            try count(upTo: number + 1)
            try log.flush()
        } else if isDue {
            try count()
        }
    }

    /// Writes an entry and its data. Returns its number.
    private func write(
        _ entry: LogEntry, _ writeData: (Int) throws(BlockError) -> Void
    ) throws(BlockError) -> Int {
        let (number, offset) = try take(entry.dataSectors)
        do throws(BlockError) {
            try log.write(entry.bytes(sectorBytes: sectorBytes).span.bytes, at: offset)
            if entry.dataSectors > 0 { try writeData(offset + sectorBytes) }
        } catch {
            state.withLock { $0.failure = error }
            state.notifyAll()
            throw error
        }
        state.withLock { _ = $0.unwritten.remove(number) }
        state.notifyAll()
        return number
    }

    /// Takes the sectors of an entry with that many sectors of data. Returns its number and its offset in
    /// bytes.
    private func take(_ dataSectors: Int) throws(BlockError) -> (number: Int, offset: Int) {
        try state.withLock { (state) throws(BlockError) in
            if let failure = state.failure { throw failure }
            let (end, overflow) = state.nextSector.addingReportingOverflow(dataSectors + 1)
            let (offset, isTooFar) = state.nextSector.multipliedReportingOverflow(by: sectorBytes)
            guard !overflow, !isTooFar, !end.multipliedReportingOverflow(by: sectorBytes).overflow else {
                throw BlockError(.noSpace, "No space left on device", path: log.filename)
            }
            let number = state.entries
            state.nextSector = end
            state.entries += 1
            state.unwritten.insert(number)
            return (number, offset)
        }
    }

    /// Writes the number of complete entries to the first sector, if it has changed.
    ///
    /// - Parameter wanted: the number of entries to wait for.
    /// - Throws: `io`, `noSpace`; also when an entry failed.
    func count(upTo wanted: Int = 0) throws(BlockError) {
        let entries = try state.wait(
            until: { state in
                state.failure != nil || !state.isCounting && state.complete >= wanted
            },
            then: { (state) throws(BlockError) -> Int? in
                if let failure = state.failure { throw failure }
                guard state.complete > state.counted else { return nil }
                state.isCounting = true
                return state.complete
            })
        guard let entries else { return }
        var failure: BlockError?
        do throws(BlockError) {
            try log.write(LogHeader(entries: entries, sectorBytes: sectorBytes).bytes.span.bytes, at: 0)
        } catch { failure = error }
        state.withLock { state in
            state.isCounting = false
            if failure == nil { state.counted = entries } else { state.failure = failure }
        }
        state.notifyAll()
        if let failure { throw failure }
    }
}
