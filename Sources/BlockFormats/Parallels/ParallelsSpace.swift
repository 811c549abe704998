import BlockCore

/// The used clusters of the data area, one bit each, counted from its start.
struct ParallelsSpace {
    private var words: [UInt64] = []
    /// The number behind the last used cluster.
    private(set) var end = 0
    /// All clusters below this number are used.
    private var cursor = 0

    func contains(_ cluster: Int) -> Bool {
        cluster / 64 < words.count && words[cluster / 64] & (1 << UInt64(cluster % 64)) != 0
    }

    /// Marks a cluster as used. `false` when it was used already.
    @discardableResult
    mutating func mark(_ cluster: Int) -> Bool {
        if cluster / 64 >= words.count {
            let wanted = max(cluster / 64 + 1, words.count * 2)
            words += [UInt64](repeating: 0, count: wanted - words.count)
        }
        let bit: UInt64 = 1 << UInt64(cluster % 64)
        guard words[cluster / 64] & bit == 0 else { return false }
        words[cluster / 64] |= bit
        end = max(end, cluster + 1)
        return true
    }

    mutating func mark(_ clusters: Range<Int>) { for cluster in clusters { mark(cluster) } }

    mutating func release(_ clusters: Range<Int>) {
        for cluster in clusters where cluster / 64 < words.count {
            words[cluster / 64] &= ~(1 << UInt64(cluster % 64))
        }
        cursor = min(cursor, clusters.lowerBound)
        while end > 0, !contains(end - 1) {
            // Skips whole words without a used cluster.
            end = end % 64 == 0 && words[end / 64 - 1] == 0 ? end - 64 : end - 1
        }
    }

    /// Takes 1 to `most` adjacent clusters, the first free ones.
    mutating func allocate(atMost most: Int) -> Range<Int> {
        let first = firstFree()
        var last = first + 1
        while last < first + most, !contains(last) { last += 1 }
        mark(first..<last)
        cursor = last
        return first..<last
    }

    /// Takes `count` clusters behind all others.
    mutating func append(_ count: Int) -> Range<Int> {
        let clusters = end..<end + count
        mark(clusters)
        return clusters
    }

    private func firstFree() -> Int {
        var cluster = cursor
        while cluster < end {
            let word = words[cluster / 64] | ((1 << UInt64(cluster % 64)) &- 1)
            if word != .max { return min(end, cluster / 64 * 64 + (~word).trailingZeroBitCount) }
            cluster = (cluster / 64 + 1) * 64
        }
        return end
    }
}
