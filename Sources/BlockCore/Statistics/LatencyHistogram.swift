/// How many requests took how long.
///
/// A value; the node's statistics fill it.
public struct LatencyHistogram: Sendable, Equatable {
    /// The most borders of a histogram.
    public static let maximumBorders = 1024

    /// The borders between the bins, in nanoseconds, in ascending order.
    public let borders: [Int]
    /// The number of requests in each bin: first those below the first border, then those from each border up
    /// to the next, and last those from the last border on.
    public private(set) var counts: [Int]

    /// An empty histogram.
    ///
    /// - Parameter borders: in nanoseconds.
    /// - Throws: `invalidArgument` for borders that do not ascend from a positive number; `limit` for more
    ///   than ``maximumBorders``.
    public init(borders: [Int]) throws(BlockError) {
        guard borders.count <= Self.maximumBorders else {
            throw BlockError(.limit, "A histogram has at most \(Self.maximumBorders) borders")
        }
        for (lower, upper) in zip([0] + borders, borders) where lower >= upper {
            throw BlockError(
                .invalidArgument, "The borders of a histogram must be positive and in ascending order")
        }
        self.borders = borders
        counts = [Int](repeating: 0, count: borders.count + 1)
    }

    /// Counts a request that took that many nanoseconds.
    mutating func add(_ latency: Int) {
        var (low, high) = (0, borders.count)
        while low < high {
            let middle = (low + high) / 2
            if latency < borders[middle] { high = middle } else { low = middle + 1 }
        }
        counts[low] += 1
    }

    mutating func reset() { counts = [Int](repeating: 0, count: counts.count) }
}
