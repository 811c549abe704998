/// A monotonic clock, and waiting by it.
///
/// Everything in the library that waits for time to pass takes one, so that tests move time themselves.
public protocol BlockClock: Sendable {
    /// The nanoseconds since any fixed moment.
    func now() -> Int
    /// Waits on `monitor` until `ready` is `true` or the clock shows `deadline`.
    ///
    /// - Parameter deadline: a time of ``now()``, in nanoseconds; `Int.max` for none.
    /// - Returns: whether `ready` is `true`.
    func wait<State: Sendable>(
        on monitor: Monitor<State>, until deadline: Int, _ ready: (inout State) -> Bool
    ) -> Bool
}

extension BlockClock {
    /// Blocks the calling thread until the clock shows `deadline`, in nanoseconds.
    public func sleep(until deadline: Int) {
        _ = wait(on: Monitor(()), until: deadline) { _ in false }
    }
}

/// The system's monotonic clock.
public struct SystemClock: BlockClock {
    /// The clock of this system.
    public init() {}

    public func now() -> Int { MonotonicClock.nanoseconds() }

    public func wait<State: Sendable>(
        on monitor: Monitor<State>, until deadline: Int, _ ready: (inout State) -> Bool
    ) -> Bool {
        guard deadline < Int.max else {
            monitor.wait(until: ready) { _ in }
            return true
        }
        return monitor.wait(forNanoseconds: max(0, deadline - now()), until: ready)
    }
}

/// The system's monotonic clock.
public enum MonotonicClock {
    private static let origin = ContinuousClock.now

    /// The nanoseconds since a moment early in this process.
    @Sendable public static func nanoseconds() -> Int {
        let passed = (ContinuousClock.now - origin).components
        return Int(passed.seconds) * 1_000_000_000 + Int(passed.attoseconds / 1_000_000_000)
    }
}
