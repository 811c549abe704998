/// The arithmetic of a rate limit: how long to wait before the next request may start.
///
/// A leaky bucket: units drain at a steady rate, and units beyond one burst wait. Pure: the caller passes the
/// time, in nanoseconds from any fixed point, and does the waiting.
public struct Throttle: Sendable, Equatable {
    /// Units (bytes, operations) a second; 0 means no limit.
    public var unitsPerSecond: Int
    /// How many units may pass at once after a pause.
    public var burstUnits: Int
    private var level = 0.0
    private var lastNanoseconds: Int?

    /// A limit with a burst of a tenth of a second unless stated.
    public init(unitsPerSecond: Int, burstUnits: Int? = nil) {
        self.unitsPerSecond = max(0, unitsPerSecond)
        self.burstUnits = burstUnits ?? max(1, unitsPerSecond / 10)
    }

    /// Accounts for `units`, and returns how many nanoseconds to wait after `now`.
    public mutating func account(_ units: Int, at now: Int) -> Int {
        guard unitsPerSecond > 0 else { return 0 }
        let rate = Double(unitsPerSecond)
        let elapsed = Double(max(0, now - (lastNanoseconds ?? now)))
        lastNanoseconds = now
        level = max(0, level - elapsed * rate / 1e9) + Double(units)
        let excess = level - Double(burstUnits)
        return excess > 0 ? Int(min(excess / rate * 1e9, 3.6e12)) : 0
    }
}
