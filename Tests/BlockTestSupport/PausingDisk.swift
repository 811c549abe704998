import BlockCore

/// Holds up one write, or one zeroing, of a certain size; or one flush. Thread-safe.
public final class PausePoint: Sendable {
    private let state = Monitor((count: 0, isReached: false, mayGo: false, isMissed: false))
    /// Stands for a flush where requests are told by their size.
    private static let flush = -1
    private let flushesToPass = Monitor(0)

    public init() {}

    /// The next request of `count` bytes is held up.
    public func arm(count: Int) { state.withLock { $0 = (count, false, false, false) } }

    /// A flush is held up, after that many others.
    public func armFlush(after others: Int) {
        flushesToPass.withLock { $0 = others }
        arm(count: Self.flush)
    }

    func passFlush() {
        guard state.withLock({ $0.count == Self.flush }) else { return }
        let isLate = flushesToPass.withLock { left in
            left -= 1
            return left < 0
        }
        if isLate { pass(Self.flush) }
    }

    func pass(_ count: Int) {
        guard state.withLock({ $0.count == count && !$0.isReached }) else { return }
        state.withLock { $0.isReached = true }
        state.notifyAll()
        state.wait(until: { $0.mayGo }) { _ in }
    }

    public var isReached: Bool { state.withLock { $0.isReached } }
    public func waitUntilReached() { state.wait(until: { $0.isReached }) { _ in } }

    /// Runs `body` on a thread, and waits until it is held up here or has ended without coming here.
    public func hold(_ body: @escaping @Sendable () throws -> Void) -> TestThread {
        let thread = TestThread(
            atEnd: { [self] in
                state.withLock { $0.isMissed = true }
                state.notifyAll()
            }, body)
        state.wait(until: { $0.isReached || $0.isMissed }) { _ in }
        return thread
    }

    public func resume() {
        state.withLock { $0.mayGo = true }
        state.notifyAll()
    }

    /// The files of `store` with this point in them.
    public func entry(_ store: TestStore) -> ProtocolEntry {
        ProtocolEntry(
            name: "file", createOptions: store.entry.createOptions,
            open: { (name, _, _) throws(BlockError) in PausingDisk(store.disk(name), self) },
            create: store.entry.create)
    }
}

private final class PausingDisk: ProtocolDriver {
    static let name = "file"
    private let inner: any ProtocolDriver
    private let pause: PausePoint

    init(_ inner: any ProtocolDriver, _ pause: PausePoint) {
        self.inner = inner
        self.pause = pause
    }

    func length() throws(BlockError) -> Int { try inner.length() }
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try inner.read(into: &buffer, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        pause.pass(bytes.byteCount)
        try inner.write(bytes, at: offset)
    }
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        pause.pass(count)
        try inner.writeZeroes(at: offset, count: count, flags: flags)
    }
    func discard(at offset: Int, count: Int) throws(BlockError) {
        try inner.discard(at: offset, count: count)
    }
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try inner.truncate(to: length, preallocation: preallocation)
    }
    func flush() throws(BlockError) {
        pause.passFlush()
        try inner.flush()
    }
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try inner.extent(at: offset, limit: limit)
    }
    func reopen(readOnly: Bool) throws(BlockError) { try inner.reopen(readOnly: readOnly) }
    func close() { inner.close() }
}
