import BlockCore
import Synchronization

/// Decides which call to the files of a ``TestStore`` fails. Thread-safe.
public final class FaultPlan: Sendable {
    public enum Mode: Sendable {
        /// The N-th call fails with EIO, the next ones work.
        case ioErrorOnce
        /// From the N-th call on, everything that writes fails with ENOSPC.
        case fullFromThen
        /// From the N-th call on, every call but a reopening fails with EIO.
        case deadFromThen

        /// What every operation is tried with.
        public static let usual: [Mode] = [.ioErrorOnce, .fullFromThen]
    }

    /// A failure of the call that follows a step of the driver above.
    public struct EventFault: Sendable, CustomStringConvertible {
        public var event: MetadataEvent
        /// Which occurrence of the event, from 1.
        public var occurrence: Int
        /// `io`, or `noSpace` for calls that take space.
        public var kind: BlockError.Kind
        /// Whether a write that fails has stored its first half.
        public var isShort: Bool
        /// Whether all later calls fail too.
        public var persists: Bool

        public init(
            _ event: MetadataEvent, _ occurrence: Int, _ kind: BlockError.Kind, isShort: Bool, persists: Bool
        ) {
            (self.event, self.occurrence, self.kind) = (event, occurrence, kind)
            (self.isShort, self.persists) = (isShort, persists)
        }

        public var description: String {
            let how = "\(kind)\(isShort ? ", half stored," : "")"
            return "\(how) \(persists ? "from" : "at") the \(occurrence). \(event.rawValue)"
        }
    }

    private struct State {
        var calls = 0
        var eventFault: EventFault?
        /// Whether the event of that fault has occurred.
        var isDue = false
        var heard: [MetadataEvent: Int] = [:]
        var failing: (number: Int, mode: Mode)?
        var failures = 0
        var refusedWrites = 0
        var isSuspended = false

        /// Counts a failure and makes its error, which tells the first from those that follow.
        mutating func fail(_ kind: BlockError.Kind, writes: Bool, path: String?) -> BlockError {
            failures += 1
            if writes { refusedWrites += 1 }
            let (message, errno): (String, Int32) =
                kind == .noSpace ? ("No space left on device", 28) : ("Input/output error", 5)
            let mark = failures > 1 ? FaultPlan.laterMark : ""
            return BlockError(kind, message + mark, errno: errno, path: path)
        }

        /// The failure of a call after an event.
        mutating func eventFailure(writes: Bool, reopens: Bool, path: String?) -> BlockError? {
            guard isDue, let fault = eventFault, !reopens, writes || fault.kind != .noSpace else {
                return nil
            }
            if !fault.persists { isDue = false }
            return fail(fault.kind, writes: writes, path: path)
        }
    }
    private let state = Mutex(State())

    /// How many calls were made since ``arm(_:_:)`` or ``disarm()``.
    public var calls: Int { state.withLock { $0.calls } }
    /// How many of them failed.
    public var failures: Int { state.withLock { $0.failures } }
    /// How many of those were to write or to flush.
    public var refusedWrites: Int { state.withLock { $0.refusedWrites } }
    /// What the message of each failure but the first ends with.
    public static let laterMark = " once more"

    /// How often each step was heard since ``arm(_:)`` or ``disarm()``.
    public var heard: [MetadataEvent: Int] { state.withLock { $0.heard } }
    /// Makes the call after an event fail.
    public func arm(_ fault: EventFault) { state.withLock { $0 = State(eventFault: fault) } }

    func hear(_ event: MetadataEvent) {
        state.withLock { state in
            if state.isSuspended { return }
            state.heard[event, default: 0] += 1
            guard let fault = state.eventFault, fault.event == event else { return }
            if state.heard[event] == fault.occurrence { state.isDue = true }
        }
    }

    /// Whether a write that fails has stored its first half.
    var storesHalf: Bool { state.withLock { $0.eventFault?.isShort ?? true } }

    /// Makes the call with this number (from 1) fail.
    public func arm(_ number: Int, _ mode: Mode) { state.withLock { $0 = State(failing: (number, mode)) } }
    /// Nothing fails any more.
    public func disarm() { state.withLock { $0 = State() } }

    /// Runs `body`, whose calls are not counted and do not fail.
    public func suspended<Result>(_ body: () throws -> Result) rethrows -> Result {
        state.withLock { $0.isSuspended = true }
        defer { state.withLock { $0.isSuspended = false } }
        return try body()
    }

    /// Counts a call and answers how it fails; `nil` when it does not.
    func next(writes: Bool, reopens: Bool = false, path: String?) -> BlockError? {
        state.withLock { state in
            if state.isSuspended { return nil }
            state.calls += 1
            if let error = state.eventFailure(writes: writes, reopens: reopens, path: path) { return error }
            guard let failing = state.failing else { return nil }
            switch failing.mode {
            case .ioErrorOnce:
                guard state.calls == failing.number else { return nil }
                return state.fail(.io, writes: writes, path: path)
            case .fullFromThen:
                guard state.calls >= failing.number, writes else { return nil }
                return state.fail(.noSpace, writes: writes, path: path)
            case .deadFromThen:
                guard state.calls >= failing.number, !reopens else { return nil }
                return state.fail(.io, writes: writes, path: path)
            }
        }
    }
}

/// A driver whose calls fail as a ``FaultPlan`` says. A write that fails may have stored its first half.
public final class FaultDisk: ProtocolDriver, MetadataEventListener {
    public static let name = "file"

    private let inner: any ProtocolDriver
    private let plan: FaultPlan
    /// Called when the driver is closed or freed, whichever is first.
    private let whenClosed: Mutex<(@Sendable () -> Void)?>

    public init(
        _ inner: any ProtocolDriver, plan: FaultPlan, whenClosed: (@Sendable () -> Void)? = nil
    ) {
        self.inner = inner
        self.plan = plan
        self.whenClosed = Mutex(whenClosed)
    }

    deinit { tellClosed() }

    private func tellClosed() {
        let tell = whenClosed.withLock { tell in
            defer { tell = nil }
            return tell
        }
        tell?()
    }

    public var identity: String? { inner.identity }

    public func hear(_ event: MetadataEvent) { plan.hear(event) }

    private func step(writes: Bool) throws(BlockError) {
        if let error = plan.next(writes: writes, path: inner.identity) { throw error }
    }

    public func length() throws(BlockError) -> Int {
        try step(writes: false)
        return try inner.length()
    }

    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try step(writes: false)
        try inner.read(into: &buffer, at: offset)
    }

    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        if let error = plan.next(writes: true, path: inner.identity) {
            let half = (offset + bytes.byteCount / 2).roundedDown(to: Pattern.sectorBytes) - offset
            if half > 0, plan.storesHalf { try inner.write(bytes.extracting(0..<half), at: offset) }
            throw error
        }
        try inner.write(bytes, at: offset)
    }

    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try step(writes: true)
        try inner.writeZeroes(at: offset, count: count, flags: flags)
    }

    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try step(writes: false)
        try inner.discard(at: offset, count: count)
    }

    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try step(writes: try length > inner.length())
        try inner.truncate(to: length, preallocation: preallocation)
    }

    public func flush() throws(BlockError) {
        try step(writes: true)
        try inner.flush()
    }

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try step(writes: false)
        return try inner.extent(at: offset, limit: limit)
    }

    public func sharesSpace(with source: any ProtocolDriver) -> Bool {
        (source as? FaultDisk).map { inner.sharesSpace(with: $0.inner) } ?? false
    }

    public func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool {
        guard let other = source as? FaultDisk, plan.next(writes: true, path: inner.identity) == nil else {
            return false
        }
        return try inner.shareRange(from: other.inner, at: sourceOffset, to: offset, count: count)
    }

    public func reopen(readOnly: Bool) throws(BlockError) {
        if let error = plan.next(writes: false, reopens: true, path: inner.identity) { throw error }
        try inner.reopen(readOnly: readOnly)
    }

    public func close() {
        inner.close()
        tellClosed()
    }
}
