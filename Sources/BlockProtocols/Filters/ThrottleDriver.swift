import BlockCore

/// Limits the speed of reads and writes by making them wait. Thread-safe.
public final class ThrottleDriver: FilterDriver {
    public static let name = "throttle"

    public let below: any ProtocolDriver
    private struct Limits {
        var bytes: Throttle
        var operations: Throttle
    }

    private let limits: Monitor<Limits>
    private let now: @Sendable () -> Int
    private let sleep: @Sendable (Int) -> Void

    /// - Parameters:
    ///   - bytes: the limit for bytes a second, reads and writes together.
    ///   - operations: the limit for requests a second.
    ///   - now: a monotonic clock in nanoseconds.
    ///   - sleep: waits that many nanoseconds.
    public init(
        over below: any ProtocolDriver, bytes: Throttle, operations: Throttle = Throttle(unitsPerSecond: 0),
        now: @escaping @Sendable () -> Int = MonotonicClock.nanoseconds,
        sleep: @escaping @Sendable (Int) -> Void = WorkerThreads.sleep(nanoseconds:)
    ) {
        self.below = below
        limits = Monitor(Limits(bytes: bytes, operations: operations))
        self.now = now
        self.sleep = sleep
    }

    private func wait(for count: Int) {
        let pause = limits.withLock { limits in
            let moment = now()
            return max(limits.bytes.account(count, at: moment), limits.operations.account(1, at: moment))
        }
        if pause > 0 { sleep(pause) }
    }

    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        wait(for: buffer.byteCount)
        try below.read(into: &buffer, at: offset)
    }

    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        wait(for: bytes.byteCount)
        try below.write(bytes, at: offset)
    }

    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        wait(for: count)
        try below.writeZeroes(at: offset, count: count, flags: flags)
    }

    public func discard(at offset: Int, count: Int) throws(BlockError) {
        wait(for: 0)
        try below.discard(at: offset, count: count)
    }
}
