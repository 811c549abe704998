/// A set of host clusters, kept as sorted ranges: its memory grows with the number of ranges, not of
/// clusters.
struct ClusterRanges {
    /// Sorted, apart from each other.
    private(set) var merged: [Range<HostCluster>] = []
    /// The clusters that lie in two or more of the given ranges; sorted, apart from each other.
    private(set) var overlaps: [Range<HostCluster>] = []

    /// - Complexity: O(n log n) in the number of ranges.
    init(_ ranges: [Range<HostCluster>]) {
        for range in ranges.filter({ !$0.isEmpty }).sorted(by: { $0.lowerBound < $1.lowerBound }) {
            guard let last = merged.last, range.lowerBound <= last.upperBound else {
                merged.append(range)
                continue
            }
            Self.append(range.lowerBound..<min(range.upperBound, last.upperBound), to: &overlaps)
            merged[merged.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
        }
    }

    private static func append(_ range: Range<HostCluster>, to ranges: inout [Range<HostCluster>]) {
        if range.isEmpty { return }
        guard let last = ranges.last, range.lowerBound <= last.upperBound else { return ranges.append(range) }
        ranges[ranges.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
    }

    /// The last cluster of the set.
    var last: HostCluster? { merged.last.map { $0.upperBound - 1 } }

    /// - Complexity: O(log n) in the number of ranges.
    func contains(_ cluster: HostCluster) -> Bool {
        var low = 0
        var high = merged.count
        while low < high {
            let middle = (low + high) / 2
            if merged[middle].upperBound <= cluster { low = middle + 1 } else { high = middle }
        }
        return low < merged.count && merged[low].contains(cluster)
    }
}
