/// The arithmetic of one limit: when the next request may begin.
///
/// A request fills the bucket with its units when it begins; the bucket drains at the average rate. A request
/// may begin while the level is no higher than the capacity: so one request of any size passes after a pause,
/// and pays for its size by the wait of the next one. Pure: the caller passes the time.
///
/// ```
///            maximum = 0                    maximum, 1 second      maximum, several seconds
/// capacity   a tenth of a second's average  maximum                maximum * seconds
/// burst rate not limited                    not limited            maximum: a second bucket, which drains
///                                                                  at maximum and holds a tenth of a second
/// ```
struct LeakyBucket: Sendable {
    /// The longest wait for the end of one request's units, in seconds: three years.
    private static let longestWait = 1e8

    let rate: IOLimits.Rate
    /// The units that have not drained at the average rate.
    private var level = 0.0
    /// The units that have not drained at the rate of a burst.
    private var burstLevel = 0.0

    init(_ rate: IOLimits.Rate) { self.rate = rate }

    private var average: Double { Double(rate.average) }
    private var maximum: Double { Double(rate.maximum) }
    private var limitsBurstRate: Bool { rate.maximum > 0 && rate.burstSeconds > 1 }
    private var capacity: Double {
        rate.maximum > 0 ? maximum * Double(rate.burstSeconds) : average / 10
    }

    mutating func drain(nanoseconds: Int) {
        let seconds = Double(nanoseconds) / 1e9
        level = max(0, level - average * seconds)
        burstLevel = max(0, burstLevel - maximum * seconds)
    }

    mutating func fill(_ units: Double) {
        guard rate.average > 0 else { return }
        level = min(level + units, capacity + average * Self.longestWait)
        if limitsBurstRate { burstLevel = min(burstLevel + units, maximum * Self.longestWait) }
    }

    /// How long the next request has to wait, in nanoseconds.
    var waitNanoseconds: Int {
        guard rate.average > 0 else { return 0 }
        var seconds = (level - capacity) / average
        if limitsBurstRate { seconds = max(seconds, (burstLevel - maximum / 10) / maximum) }
        let wait = seconds * 1e9
        // Less than a nanosecond is the rounding of the level.
        return wait < 1 ? 0 : Int(wait.rounded(.up))
    }
}

/// The buckets of one set of limits. Pure: the caller passes the time, in nanoseconds from any fixed point.
struct LimitReckoning: Sendable {
    let limits: IOLimits
    /// In the order of ``IOLimits/places``.
    private var buckets: [LeakyBucket]
    private var last: Int

    /// Begins with empty buckets.
    init(_ limits: IOLimits, at now: Int) {
        self.limits = limits
        buckets = IOLimits.places.map { LeakyBucket(limits[keyPath: $0.path]) }
        last = now
    }

    /// How long the next request in that direction has to wait, in nanoseconds; 0 when it may begin.
    mutating func wait(_ direction: IOLimits.Direction, at now: Int) -> Int {
        if now > last {
            for index in buckets.indices { buckets[index].drain(nanoseconds: now - last) }
            last = now
        }
        return Self.indices(direction).reduce(0) { max($0, buckets[$1].waitNanoseconds) }
    }

    /// Takes a request of `count` bytes into account, which begins now.
    mutating func begin(_ direction: IOLimits.Direction, bytes count: Int) {
        for index in Self.indices(direction) {
            buckets[index].fill(index < 3 ? Double(max(0, count)) : limits.operations(in: count))
        }
    }

    /// The buckets of both directions together and of this one, first of bytes, then of operations.
    private static func indices(_ direction: IOLimits.Direction) -> [Int] {
        direction == .read ? [0, 1, 3, 4] : [0, 2, 3, 5]
    }
}
