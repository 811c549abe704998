import BlockCore
import Synchronization

/// Changed parts of tables on their way to the file, so that a flush does not keep the tables' lock while the
/// disk works.
///
/// With the lock, whoever flushes takes the parts out of memory, all at once
/// (``FlushableTables/takeChanges()``); without it, they are written in steps, with a flush of the file
/// before each and at the end; with it again, the tables learn how that went. What changes meanwhile waits
/// for the next time: it is not among the parts. Until then the parts stay in memory too, so that nobody
/// reads old ones from the file, and whoever writes tables with the lock completes the steps first.
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
    /// What becomes durable before anything else; and the tables of several files.
    private let dataFile: BlockNode?
    private let others: [TableWrites]
    /// How it went; `nil` until somebody has completed it.
    private let outcome = Mutex<Result<Void, BlockError>?>(nil)

    /// - Parameters:
    ///   - first: what may be written before the first flush, with guest data.
    ///   - dataFile: another file in which the guest's data is.
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

    /// Writes everything, once: later calls wait for the first and answer the same. Durable on return.
    ///
    /// - Throws: `io`, `noSpace`.
    func complete() throws(BlockError) {
        let result = outcome.withLock { outcome in
            let result = outcome ?? run()
            outcome = result
            return result
        }
        try result.get()
    }

    private func run() -> Result<Void, BlockError> {
        do throws(BlockError) {
            if let file { try write(to: file) }
            for other in others { try other.complete() }
            return .success(())
        } catch {
            return .failure(error)
        }
    }

    private func write(to file: BlockNode) throws(BlockError) {
        try dataFile?.flush()
        for part in first { try file.write(part.bytes.span.bytes, at: part.offset) }
        file.emit(.flushToDisk)
        try file.flush()
        for step in steps {
            for event in step.events { file.emit(event) }
            for part in step.parts { try file.write(part.bytes.span.bytes, at: part.offset) }
            file.emit(.flushToDisk)
            try file.flush()
        }
    }
}

/// Tables that can be flushed without their lock.
protocol FlushableTables: Sendable {
    var isReadOnly: Bool { get }
    /// What was taken out and is not settled yet.
    var writes: TableWrites? { get set }

    /// Takes out everything that would make what is there now durable, or makes it durable at once and
    /// answers `nil`. ``writes`` is `nil` before.
    mutating func takeChanges() throws(BlockError) -> TableWrites?

    /// Learns how the writing of what was taken out last went: after a failure it is changed again.
    mutating func settle(failed: Bool)
}

extension FlushableTables {
    /// Completes what was taken out. To be called, with the lock, before tables are written in another way.
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
