import BlockCore

/// A cache of decompressed chunks, within a memory limit that all threads share.
///
/// Thread-safe. The lock is not held while a chunk is decompressed; no chunk is decompressed by two threads
/// at a time. A thread that waits for memory holds none, so that no two can wait for each other: a caller
/// must not claim a chunk while it has another one.
final class DmgChunkCache: Sendable {
    /// A chunk that is in use or cached.
    private struct Slot {
        /// `nil` while it is being decompressed.
        var buffer: AlignedBuffer?
        var users = 0
        var lastUse = 0
    }

    private struct State {
        var slots: [Int: Slot] = [:]
        /// The reserved memory, in bytes.
        var reserved = 0
        var clock = 0
        /// The last damaged chunk: salvaging reads it again for each of its sectors.
        var damaged: (number: Int, error: BlockError)?

        /// Reserves `count` bytes, and evicts unused chunks for them if necessary.
        mutating func reserve(_ count: Int) -> Bool {
            while reserved + count > Dmg.Limit.memoryBytes {
                guard dropOldest() else { return false }
            }
            reserved += count
            return true
        }

        /// Evicts the least recently used chunk. `false` when all are in use.
        mutating func dropOldest() -> Bool {
            let idle = slots.filter { $0.value.buffer != nil && $0.value.users == 0 }
            guard let oldest = idle.min(by: { $0.value.lastUse < $1.value.lastUse }) else { return false }
            slots[oldest.key] = nil
            reserved -= oldest.value.buffer?.count ?? 0
            return true
        }

        /// Limits the cached chunks; the newest one stays, whatever its size.
        mutating func trim() {
            while slots.count > 1,
                reserved > Dmg.Limit.cacheBytes || slots.count > Dmg.Limit.cachedChunks
            {
                guard dropOldest() else { return }
            }
        }

        mutating func use(_ number: Int, _ slot: Slot) -> AlignedBuffer? {
            clock += 1
            slots[number] = Slot(buffer: slot.buffer, users: slot.users + 1, lastUse: clock)
            return slot.buffer
        }
    }

    /// The result of ``claim(_:waits:)``.
    enum Claim {
        /// The chunk is ready; the caller ends its use with ``release(_:)``.
        case ready(AlignedBuffer)
        /// The caller decompresses the chunk, and passes the outcome to ``finish(_:_:)``.
        case mine
        /// Another thread is decompressing the chunk.
        case busy
    }

    private let state = Monitor(State())

    /// Asks for a chunk.
    ///
    /// - Parameter waits: whether to wait while another thread decompresses it; the result is then never
    ///   `busy`.
    /// - Throws: the earlier error of decompressing it, if it is damaged.
    func claim(_ number: Int, waits: Bool) throws(BlockError) -> Claim {
        try state.wait(
            until: { state in !waits || state.slots[number].map { $0.buffer != nil } ?? true },
            then: { (state) throws(BlockError) in
                if let damaged = state.damaged, damaged.number == number { throw damaged.error }
                guard let slot = state.slots[number] else {
                    state.slots[number] = Slot()
                    return .mine
                }
                guard slot.buffer != nil, let buffer = state.use(number, slot) else { return .busy }
                return .ready(buffer)
            })
    }

    /// Whether the chunk is neither cached nor being decompressed.
    func isUnknown(_ number: Int) -> Bool { state.withLock { $0.slots[number] == nil } }

    /// Ends a claim of ``Claim/mine``. After success, with a buffer whose bytes are reserved, the caller
    /// holds the chunk as with ``Claim/ready(_:)``.
    func finish(_ number: Int, _ outcome: Result<AlignedBuffer, BlockError>) {
        state.withLock { state in
            switch outcome {
            case .success(let buffer):
                _ = state.use(number, Slot(buffer: buffer))
            case .failure(let error):
                state.slots[number] = nil
                if error.kind == .corrupt { state.damaged = (number, error) }
            }
        }
        state.notifyAll()
    }

    /// Ends the caller's use of a chunk.
    func release(_ number: Int) {
        state.withLock { state in
            state.slots[number]?.users -= 1
            state.trim()
        }
        state.notifyAll()
    }

    /// Waits until that much memory is free, and reserves it.
    ///
    /// - Throws: `limit` for more than the whole limit.
    func reserve(_ bytes: Int) throws(BlockError) {
        guard bytes <= Dmg.Limit.memoryBytes else {
            throw BlockError(.limit, "A chunk needs \(bytes) bytes of memory to be decompressed")
        }
        state.wait(until: { $0.reserve(bytes) }, then: { _ in })
    }

    func giveBack(_ bytes: Int) {
        state.withLock { $0.reserved -= bytes }
        state.notifyAll()
    }
}
