/// The limits on the speed of a node's reads and writes, or of all nodes of a ``ThrottleGroup``.
///
/// ```swift
/// var limits = IOLimits()
/// limits.bytes.total.average = 10 << 20
/// limits.bytes.total.maximum = 100 << 20
/// limits.bytes.total.burstSeconds = 5
/// try node.setLimits(limits)
/// ```
public struct IOLimits: Sendable, Equatable {
    /// One limit, in units a second: bytes or operations.
    public struct Rate: Sendable, Equatable {
        /// The units a second in the long run; 0 for no limit.
        public var average = 0
        /// The units a second during a burst; 0 when bursts are a tenth of a second's ``average``.
        public var maximum = 0
        /// The length of a burst at ``maximum``, in seconds, after a pause.
        ///
        /// With 1 second the whole burst may pass at once.
        public var burstSeconds = 1

        /// A rate of units a second; 0 for no limit.
        public init(average: Int = 0, maximum: Int = 0, burstSeconds: Int = 1) {
            self.average = average
            self.maximum = maximum
            self.burstSeconds = burstSeconds
        }
    }

    /// The limits of one measure: for reads and writes together, or for each alone.
    public struct Rates: Sendable, Equatable {
        /// For both directions together.
        public var total = Rate()
        /// For reads.
        public var read = Rate()
        /// For writes.
        public var write = Rate()

        /// No limits.
        public init() {}
    }

    /// The direction of a request.
    ///
    /// Zeroing and discarding count as writing.
    public enum Direction: Int, Sendable, CaseIterable {
        case read, write

        var other: Direction { self == .read ? .write : .read }
    }

    /// The limits of bytes a second.
    public var bytes = Rates()
    /// The limits of operations a second.
    public var operations = Rates()
    /// The size, in bytes, up to which a request is one operation; a larger one counts in proportion to its
    /// size.
    ///
    /// 0: every request is one.
    public var operationBytes = 0

    /// No limits.
    public init() {}

    /// Whether no request ever waits.
    public var isUnlimited: Bool { Self.places.allSatisfy { self[keyPath: $0.path].average == 0 } }

    /// The six limits, with the names that options give them.
    static let places: [(name: String, path: any WritableKeyPath<IOLimits, Rate> & Sendable)] = [
        ("bps-total", \.bytes.total), ("bps-read", \.bytes.read), ("bps-write", \.bytes.write),
        ("iops-total", \.operations.total), ("iops-read", \.operations.read),
        ("iops-write", \.operations.write),
    ]

    /// The number of operations as which a request of `count` bytes counts.
    func operations(in count: Int) -> Double {
        operationBytes > 0 ? max(1, Double(count) / Double(operationBytes)) : 1
    }
}
