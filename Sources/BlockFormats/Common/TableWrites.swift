import BlockCore

/// Changed parts of tables on their way to the file. A flush writes them without holding the tables' lock.
///
/// The order of a flush:
///
/// 1. with the lock, all changed parts are copied out of memory (``FlushableTables/takeChanges()``);
/// 2. without the lock, they are written in steps, with a flush of the file before each step and at the end;
///    ``writeOut()`` leaves the last flush to the next ``complete()``;
/// 3. with the lock, the tables learn the outcome (``FlushableTables/settle(failed:)``).
///
/// Changes made meanwhile are not among the parts; the next flush takes them. Until step 3 the parts stay in
/// memory too, so that no reader loads old ones from the file. Code that writes tables with the lock held
/// completes the steps first.
///
/// Thread-safe. Lock order: the tables' lock, then this one, then the file's own.
final class TableWrites: Sendable {
    /// Bytes of a table, at their place in the file.
    struct Part: Sendable {
        var offset: Int
        var bytes: [UInt8]
    }

    /// Parts that may be written in any order.
    struct Step: Sendable {
        var parts: [Part]
        var events: [MetadataEvent] = []
    }

    private let file: BlockNode?
    private let first: [Part]
    private let steps: [Step]
    /// The external data file, which becomes durable first; and the writes of several files.
    private let dataFile: BlockNode?
    private let others: [TableWrites]
    private struct Progress {
        /// Whether all parts are in the file.
        var isWritten = false
        /// The outcome; `nil` until the steps were completed, or failed.
        var outcome: Result<Void, BlockError>?
    }

    private let progress = Monitor(Progress())

    /// - Parameters:
    ///   - first: parts that may be written before the first flush, together with guest data.
    ///   - dataFile: the external file with the guest's data, if any.
    init(
        _ steps: [Step], to file: BlockNode, first: [Part] = [], dataFile: BlockNode? = nil
    ) {
        self.file = file
        self.dataFile = dataFile
        others = []
        self.first = first
        self.steps = steps.filter { !$0.parts.isEmpty }
    }

    /// The tables of several files, one after the other.
    init(all others: [TableWrites]) {
        self.others = others
        (file, dataFile, first, steps) = (nil, nil, [], [])
    }

    /// Writes everything, once: later calls wait for the first and have its outcome. Durable on return.
    ///
    /// - Throws: `io`, `noSpace`.
    func complete() throws(BlockError) {
        try run { (progress) throws(BlockError) in
            try write(&progress)
            if let file { try makeDurable(file) }
            for other in others { try other.complete() }
            progress.outcome = .success(())
        }
    }

    /// Writes everything, once, and flushes only where the order of the parts asks for it: the parts written
    /// last are not durable. Of several files, all but the last are.
    ///
    /// - Throws: `io`, `noSpace`.
    func writeOut() throws(BlockError) {
        try run { (progress) throws(BlockError) in
            try write(&progress)
            for other in others.dropLast() { try other.complete() }
            try others.last?.writeOut()
        }
    }

    /// Runs `body` unless there is an outcome; its failure is the outcome.
    private func run(_ body: (inout Progress) throws(BlockError) -> Void) throws(BlockError) {
        let outcome = progress.withLock { progress -> Result<Void, BlockError> in
            if let outcome = progress.outcome { return outcome }
            do throws(BlockError) { try body(&progress) } catch { progress.outcome = .failure(error) }
            return progress.outcome ?? .success(())
        }
        try outcome.get()
    }

    private func write(_ progress: inout Progress) throws(BlockError) {
        guard let file, !progress.isWritten else { return }
        try dataFile?.flush()
        for part in first { try file.write(part.bytes.span.bytes, at: part.offset) }
        for step in steps {
            try makeDurable(file)
            for event in step.events { file.emit(event) }
            for part in step.parts { try file.write(part.bytes.span.bytes, at: part.offset) }
        }
        progress.isWritten = true
    }

    private func makeDurable(_ file: BlockNode) throws(BlockError) {
        file.emit(.flushToDisk)
        try file.flush()
    }
}

/// Tables that can be flushed without their lock.
protocol FlushableTables: Sendable {
    var isReadOnly: Bool { get }
    /// The changes that were taken out and are not settled yet.
    var writes: TableWrites? { get set }

    /// Takes out all changes that are not durable yet; or makes them durable immediately and returns `nil`.
    /// ``writes`` must be `nil` before the call.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func takeChanges() throws(BlockError) -> TableWrites?

    /// Releases the changes that were taken out last; after a failed write they count as changes again.
    mutating func settle(failed: Bool)
}

extension FlushableTables {
    /// Completes the changes that were taken out. Call it with the lock held before writing tables directly.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func finishWrites() throws(BlockError) {
        guard let writes else { return }
        self.writes = nil
        do throws(BlockError) { try writes.complete() } catch {
            settle(failed: true)
            throw error
        }
        settle(failed: false)
    }

    mutating func settle(_ done: TableWrites, failed: Bool) {
        guard writes === done else { return }
        writes = nil
        settle(failed: failed)
    }
}
