import BlockCore
import Synchronization
import SystemPackage

/// The first sector of an existing file that becomes a new image, kept in memory until the image is complete.
///
/// Until then the file has zeroes there: after a kill it is no image of any format with a signature at its
/// start. Thread-safe.
final class HeldStart: Sendable {
    /// The number of bytes held in memory.
    static let byteCount = 512

    private struct State {
        var bytes = [UInt8](repeating: 0, count: HeldStart.byteCount)
        var isDurable = false
    }

    private let state = Mutex(State())

    /// Makes ``release(to:)`` flush the file.
    func makeDurable() { state.withLock { $0.isDurable = true } }

    /// Copies the held bytes of `offset..<offset + buffer.byteCount` into a buffer that was read from the
    /// file.
    func overlay(_ buffer: inout MutableRawSpan, at offset: Int) {
        let count = min(buffer.byteCount, Self.byteCount - offset)
        guard count > 0 else { return }
        state.withLock { state in
            buffer.copy(from: state.bytes.span.bytes.extracting(offset..<offset + count), at: 0)
        }
    }

    /// Stores the first of `bytes`, those of a write at `offset` that are in the held sector, and returns how
    /// many.
    func take(_ bytes: RawSpan, at offset: Int) -> Int {
        let count = min(bytes.byteCount, Self.byteCount - offset)
        guard count > 0 else { return 0 }
        state.withLock { state in
            for index in 0..<count {
                state.bytes[offset + index] = bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
            }
        }
        return count
    }

    /// Writes the held sector to the file.
    func release(to file: HostFile) throws(BlockError) {
        let (bytes, isDurable) = state.withLock { ($0.bytes, $0.isDurable) }
        let length = try reporting(file.path) { () throws(Errno) in try FileStatus.length(file.descriptor) }
        try file.write(bytes.span.bytes.extracting(0..<min(bytes.count, length)), at: 0)
        if isDurable { try file.flush() }
    }
}

/// A file whose first sector is held in memory.
final class HeldStartDriver: UseDeclaring {
    static let name = FileDriver.name

    let file: FileDriver
    private let start: HeldStart

    init(_ file: FileDriver, _ start: HeldStart) {
        self.file = file
        self.start = start
        if !file.file.options.ignoresFlush { start.makeDurable() }
    }

    func length() throws(BlockError) -> Int { try file.length() }
    func allocatedSize() -> Int? { file.allocatedSize() }
    var identity: String? { file.identity }
    var place: String? { file.place }
    var requestAlignment: Int { file.requestAlignment }
    var zeroInitialised: Bool { file.zeroInitialised }
    func flush() throws(BlockError) { try file.flush() }
    func reopen(readOnly: Bool) throws(BlockError) { try file.reopen(readOnly: readOnly) }
    func close() { file.close() }
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try file.truncate(to: length, preallocation: preallocation)
    }
    func declareUse(toleratingWriters: Bool) throws(BlockError) {
        try file.declareUse(toleratingWriters: toleratingWriters)
    }

    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try file.read(into: &buffer, at: offset)
        start.overlay(&buffer, at: offset)
    }

    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let taken = start.take(bytes, at: offset)
        if taken > 0 { try reach(offset + taken) }
        guard taken < bytes.byteCount else { return }
        try file.write(bytes.extracting(taken..<bytes.byteCount), at: offset + taken)
    }

    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        let zeroes = [UInt8](repeating: 0, count: max(0, min(count, HeldStart.byteCount - offset)))
        let taken = start.take(zeroes.span.bytes, at: offset)
        if taken > 0 { try reach(offset + taken) }
        guard taken < count else { return }
        try file.writeZeroes(at: offset + taken, count: count - taken, flags: flags)
    }

    func discard(at offset: Int, count: Int) throws(BlockError) {
        let skipped = max(0, min(count, HeldStart.byteCount - offset))
        if skipped < count { try file.discard(at: offset + skipped, count: count - skipped) }
    }

    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        guard offset < HeldStart.byteCount else { return try file.extent(at: offset, limit: limit) }
        return Extent(.data(hostOffset: offset), length: min(limit, HeldStart.byteCount - offset))
    }

    func copyRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Int {
        guard offset >= HeldStart.byteCount else { return 0 }
        return try file.copyRange(from: source, at: sourceOffset, to: offset, count: count)
    }

    func startWriteback() { file.startWriteback() }

    func sharesSpace(with source: any ProtocolDriver) -> Bool { file.sharesSpace(with: source) }

    func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool {
        guard offset >= HeldStart.byteCount else { return false }
        return try file.shareRange(from: source, at: sourceOffset, to: offset, count: count)
    }

    /// Makes the file at least as long as the held bytes need.
    private func reach(_ end: Int) throws(BlockError) {
        if try file.length() < end { try file.truncate(to: end, preallocation: .off) }
    }
}
