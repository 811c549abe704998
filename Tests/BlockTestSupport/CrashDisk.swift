import BlockCore
import Synchronization

/// A file of a ``TestStore``: kept in memory, every change logged. Thread-safe.
///
/// Discarded bytes become zero, as in a punched hole.
public final class CrashDisk: ProtocolDriver {
    public static let name = "file"
    /// Longer files are refused with `noSpace`, so that a runaway driver does not eat the memory.
    static let maximumBytes = 1 << 40

    private let store: TestStore
    private let file: String

    init(store: TestStore, file: String) {
        self.store = store
        self.file = file
    }

    public var identity: String? { file }

    public func length() throws(BlockError) -> Int { store.state.withLock { $0.files[file]?.count ?? 0 } }

    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        buffer.withUnsafeMutableBytes { target in
            let target = UncheckedBuffer(target)
            store.state.withLock { $0.files[file]?.read(into: target.bytes, at: offset) }
        }
    }

    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let data = bytes.array
        let fitting = fittingBytes(offset..<offset + data.count)
        let whole = fitting == data.count
        let stored = whole ? data : Array(data.prefix(fitting))
        if whole || fitting > 0 {
            try change(.write(file: file, offset: offset, bytes: stored), upTo: offset + stored.count)
        }
        guard whole else {
            throw BlockError(.noSpace, "No space left on device", errno: 28, path: file, offset: offset)
        }
    }

    /// How much of a write fits on the disk.
    private func fittingBytes(_ range: Range<Int>) -> Int {
        store.state.withLock { state in
            guard let capacity = state.capacity else { return range.count }
            let free = max(0, capacity - state.storedChunks)
            let fitting = state.files[file, default: SparseBytes()].fittingBytes(range, free: free)
            if fitting < range.count { state.refusals += 1 }
            return fitting
        }
    }

    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        if store.capacity != nil, !flags.contains(.mayUnmap) {
            return try write(AlignedBuffer(count: count, zeroed: true).bytes, at: offset)
        }
        try change(.zero(file: file, range: offset..<offset + count), upTo: offset + count)
    }

    public func discard(at offset: Int, count: Int) throws(BlockError) {
        let end = min(offset + count, try length())
        if end > offset { try change(.zero(file: file, range: offset..<end), upTo: end) }
    }

    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try change(.truncate(file: file, length: length), upTo: length)
    }

    public func flush() throws(BlockError) { try change(.flush(file: file), upTo: 0) }

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let hole = store.state.withLock { $0.files[file]?.hole(at: offset, limit: limit) }
        guard let hole else { return Extent(.zero(hostOffset: offset), length: limit) }
        return Extent(
            hole.isHole ? .zero(hostOffset: offset) : .data(hostOffset: offset), length: hole.length)
    }

    public func sharesSpace(with source: any ProtocolDriver) -> Bool {
        source is CrashDisk && store.sharesSpace && source.identity != file
    }

    /// Sharing is one change, as in a file system that keeps a journal.
    public func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool {
        guard let other = source as? CrashDisk, sharesSpace(with: other),
            (sourceOffset | offset | count) & (BlockNode.sharingAlignment - 1) == 0,
            sourceOffset + count <= (try other.length()), takeShare(count)
        else { return false }
        let buffer = AlignedBuffer(count: count)
        var bytes = buffer.mutableBytes
        try other.read(into: &bytes, at: sourceOffset)
        try change(.write(file: file, offset: offset, bytes: buffer.bytes.array), upTo: offset + count)
        return true
    }

    private func takeShare(_ count: Int) -> Bool {
        store.state.withLock { state in
            guard state.sharesLeft > 0 else { return false }
            state.sharesLeft -= 1
            state.sharedBytes += count
            return true
        }
    }

    public func reopen(readOnly: Bool) throws(BlockError) {}
    public func close() {}

    private func change(_ event: StorageEvent, upTo end: Int) throws(BlockError) {
        guard end <= Self.maximumBytes else {
            throw BlockError(.noSpace, "No space left on device", errno: 28, path: file, offset: end)
        }
        store.state.withLock { state in
            state.log.append(event)
            state.files[file, default: SparseBytes()].apply(event)
        }
    }
}

/// Carries a buffer into a lock's closure, which runs at once on the same thread.
private struct UncheckedBuffer: @unchecked Sendable {
    let bytes: UnsafeMutableRawBufferPointer
    init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }
}

extension SparseBytes {
    /// Makes one logged change.
    public mutating func apply(_ event: StorageEvent) {
        switch event {
        case .write(_, let offset, let bytes): write(bytes, at: offset)
        case .zero(_, let range): zero(range)
        case .truncate(_, let length): resize(to: length)
        case .flush: break
        }
    }
}
