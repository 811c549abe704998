import BlockCore

/// The used clusters of the data area, counted from its start.
struct ParallelsSpace {
    private var used = UnitBitmap(0..<Int.max)
    /// All clusters below this number are used.
    private var cursor = 0

    /// The number behind the last used cluster.
    var end: Int { used.end }

    /// Marks a cluster as used. `false` when it was used already.
    @discardableResult
    mutating func mark(_ cluster: Int) -> Bool { used.insert(cluster) }

    mutating func mark(_ clusters: Range<Int>) { used.insert(clusters) }

    mutating func release(_ clusters: Range<Int>) {
        used.remove(clusters)
        cursor = min(cursor, clusters.lowerBound)
    }

    /// Takes 1 to `most` adjacent clusters, the first free ones.
    mutating func allocate(atMost most: Int) -> Range<Int> {
        let first = used.firstUnused(from: cursor) ?? end
        cursor = min(used.firstUsed(from: first) ?? .max, first + most)
        used.insert(first..<cursor)
        return first..<cursor
    }

    /// Takes `count` clusters behind all others.
    mutating func append(_ count: Int) -> Range<Int> {
        let clusters = end..<end + count
        used.insert(clusters)
        return clusters
    }
}
