import BlockCore

/// Limits the speed of reads and writes by making them wait on their own threads.
///
/// Thread-safe.
///
/// `driver=throttle,file.filename=…,limits.bps-total=…,limits.iops-total=…`
public final class ThrottleDriver: OpenableFilter {
    public static let name = "throttle"

    public let child: BlockNode
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
        over child: BlockNode, bytes: Throttle, operations: Throttle = Throttle(unitsPerSecond: 0),
        now: @escaping @Sendable () -> Int = MonotonicClock.nanoseconds,
        sleep: @escaping @Sendable (Int) -> Void = WorkerThreads.sleep(nanoseconds:)
    ) {
        self.child = child
        limits = Monitor(Limits(bytes: bytes, operations: operations))
        self.now = now
        self.sleep = sleep
    }

    /// - Throws: `invalidArgument`; as ``FilterRequest/openChild(_:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> ThrottleDriver {
        let bytes = try options.takeSize("limits.bps-total") ?? 0
        let operations = try options.takeSize("limits.iops-total") ?? 0
        return ThrottleDriver(
            over: try request.openChild(), bytes: Throttle(unitsPerSecond: bytes),
            operations: Throttle(unitsPerSecond: operations))
    }

    private func wait(for count: Int) {
        let pause = limits.withLock { limits in
            let moment = now()
            return max(limits.bytes.account(count, at: moment), limits.operations.account(1, at: moment))
        }
        if pause > 0 { sleep(pause) }
    }

    /// - Throws: as ``BlockNode/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        wait(for: buffer.byteCount)
        try child.read(into: &buffer, at: offset)
    }

    /// - Throws: as ``BlockNode/write(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        wait(for: bytes.byteCount)
        try child.write(bytes, at: offset)
    }

    /// - Throws: as ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        wait(for: count)
        try child.writeZeroes(at: offset, count: count, flags: flags)
    }

    /// - Throws: as ``BlockNode/discard(at:count:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        wait(for: 0)
        try child.discard(at: offset, count: count)
    }
}
