import BlockCore

/// One of the names of ``NullStorage``.
public protocol NullName: Sendable {
    /// The name in `driver=` options and in `info`.
    static var name: String { get }
}

/// The name `null-co`.
public enum NullCoName: NullName { public static let name = "null-co" }
/// The name `null-aio`.
public enum NullAioName: NullName { public static let name = "null-aio" }

/// The device `null-co`: QEMU's serves its requests in coroutines.
public typealias NullDriver = NullStorage<NullCoName>
/// The device `null-aio`: QEMU's serves its requests by callbacks, here the two differ in their names only.
public typealias NullAioDriver = NullStorage<NullAioName>

/// A device of a given size that keeps nothing: for measuring.
///
/// Thread-safe. Reads give zeroes, writes are dropped, and each request takes a stated time.
public final class NullStorage<Name: NullName>: ProtocolDriver {
    public static var name: String { Name.name }

    private let sizeBytes: Int
    private let readsZeroes: Bool
    private let latencyNanoseconds: Int
    private let clock: any BlockClock

    /// A device of `sizeBytes` bytes.
    ///
    /// - Parameters:
    ///   - readsZeroes: whether the device is known to read as zeroes; if not, its map shows data.
    ///   - latencyNanoseconds: the time that each read, write, zeroing and flush takes.
    ///   - clock: the clock by which requests wait.
    public init(
        sizeBytes: Int, readsZeroes: Bool = true, latencyNanoseconds: Int = 0,
        clock: any BlockClock = SystemClock()
    ) {
        self.sizeBytes = sizeBytes
        self.readsZeroes = readsZeroes
        self.latencyNanoseconds = latencyNanoseconds
        self.clock = clock
    }

    private func pause() {
        guard latencyNanoseconds > 0 else { return }
        let (end, overflow) = clock.now().addingReportingOverflow(latencyNanoseconds)
        clock.sleep(until: overflow ? .max : end)
    }

    /// - Throws: nothing.
    public func length() throws(BlockError) -> Int { sizeBytes }
    public func allocatedSize() -> Int? { 0 }
    /// - Throws: nothing.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        pause()
        buffer.fill()
    }
    /// - Throws: nothing.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) { pause() }
    /// - Throws: nothing.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) { pause() }
    /// - Throws: nothing.
    public func discard(at offset: Int, count: Int) throws(BlockError) {}
    /// - Throws: `unsupported`.
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        throw BlockError(.unsupported, "Image format driver does not support resize")
    }
    /// - Throws: nothing.
    public func flush() throws(BlockError) { pause() }
    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(readsZeroes ? .zero(hostOffset: offset) : .data(hostOffset: offset), length: limit)
    }
    /// - Throws: nothing.
    public func reopen(readOnly: Bool) throws(BlockError) {}
    public func close() {}
}
