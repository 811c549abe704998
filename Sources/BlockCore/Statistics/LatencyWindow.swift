/// The latencies of the last seconds.
///
/// A value; the caller passes the time, in nanoseconds.
///
/// Ten slices of equal length, of which the oldest is given up when a new one begins: so a summary is of at
/// least nine tenths of the interval and at most all of it.
public struct LatencyWindow: Sendable {
    /// The longest interval, in seconds: a year.
    public static let maximumSeconds = 366 * 86400
    /// The most intervals of a node.
    public static let maximumWindows = 16

    /// What happened in an interval.
    ///
    /// Times are in nanoseconds; they are 0 without requests.
    public struct Summary: Sendable, Equatable {
        /// The length of the interval, in seconds.
        public var seconds: Int
        /// The number of requests that ended.
        public var operations: Int
        /// The shortest time of a request.
        public var minimum: Int
        /// The longest time of a request.
        public var maximum: Int
        /// The average time of a request.
        public var average: Int
        /// The average number of requests under way at the same time.
        public var queueDepth: Double
    }

    private struct Slice {
        /// The number of the slice since time 0.
        var number: Int
        var operations = 0
        var total = 0
        var minimum = Int.max
        var maximum = 0
    }

    private static let sliceCount = 10

    let seconds: Int
    /// In ascending order; without those in which nothing happened.
    private var slices: [Slice] = []
    private var began: Int

    /// - Parameter seconds: the length of the interval, as ``check(_:)`` allows it.
    init(seconds: Int, at now: Int) {
        self.seconds = seconds
        began = now
    }

    /// - Throws: `invalidArgument`, `limit`.
    static func check(_ seconds: [Int]) throws(BlockError) {
        guard seconds.count <= maximumWindows else {
            throw BlockError(.limit, "There may be at most \(maximumWindows) intervals")
        }
        guard seconds.allSatisfy({ (1...maximumSeconds).contains($0) }) else {
            throw BlockError(.invalidArgument, "Invalid interval length")
        }
    }

    private var sliceNanoseconds: Int { seconds * 1_000_000_000 / Self.sliceCount }

    /// Counts a request that ends now.
    mutating func add(_ latency: Int, at now: Int) {
        let number = now / sliceNanoseconds
        slices.removeAll { $0.number <= number - Self.sliceCount }
        if slices.last.map({ $0.number < number }) ?? true { slices.append(Slice(number: number)) }
        let last = slices.count - 1
        slices[last].operations += 1
        slices[last].total = slices[last].total.addingReportingOverflow(latency).partialValue
        slices[last].minimum = min(slices[last].minimum, latency)
        slices[last].maximum = max(slices[last].maximum, latency)
    }

    /// The requests that ended in the interval before now.
    func summary(at now: Int) -> Summary {
        let oldest = now / sliceNanoseconds - Self.sliceCount + 1
        let recent = slices.filter { $0.number >= oldest }
        let operations = recent.reduce(0) { $0 + $1.operations }
        let total = recent.reduce(0) { $0 + $1.total }
        let passed = now - max(began, oldest * sliceNanoseconds)
        return Summary(
            seconds: seconds, operations: operations, minimum: recent.map(\.minimum).min() ?? 0,
            maximum: recent.map(\.maximum).max() ?? 0, average: operations > 0 ? total / operations : 0,
            queueDepth: passed > 0 ? Double(total) / Double(passed) : 0)
    }

}
