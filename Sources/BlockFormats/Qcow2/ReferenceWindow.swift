/// Counts of how often host clusters are referred to, for one window of the file.
///
/// One byte a cluster, whatever the image's size: a file with more clusters is counted in several passes.
/// Not thread-safe.
struct ReferenceWindow {
    /// Clusters counted in one pass.
    static let maximumClusters = 32 << 20

    /// The clusters that this window counts.
    let clusters: Range<Int>
    private var cells: [UInt8]
    /// Counts that do not fit into a cell.
    private var large: [Int: UInt64] = [:]

    private static let countMask: UInt8 = 0x3f
    private static let copiedBit: UInt8 = 0x40
    private static let sharedBit: UInt8 = 0x80

    init(_ clusters: Range<Int>) {
        self.clusters = clusters
        cells = [UInt8](repeating: 0, count: clusters.count)
    }

    /// Counts one reference to each of `range` that lies in this window.
    mutating func count(_ range: Range<Int>) {
        let inside = range.clamped(to: clusters)
        for cluster in inside { add(cluster - clusters.lowerBound) }
    }

    private mutating func add(_ index: Int) {
        let cell = cells[index]
        if cell & Self.countMask == Self.countMask {
            large[index, default: UInt64(Self.countMask)] += 1
        } else {
            cells[index] = cell + 1
        }
    }

    /// Takes back one reference.
    mutating func takeBack(_ cluster: Int) {
        let index = cluster - clusters.lowerBound
        if let count = large[index] {
            large[index] = count > UInt64(Self.countMask) + 1 ? count - 1 : nil
        } else if cells[index] & Self.countMask > 0 {
            cells[index] -= 1
        }
    }

    /// Notes how an active entry flags a cluster.
    mutating func noteFlag(_ cluster: Int, isCopied: Bool) {
        guard clusters.contains(cluster) else { return }
        cells[cluster - clusters.lowerBound] |= isCopied ? Self.copiedBit : Self.sharedBit
    }

    /// How often a cluster is referred to.
    func count(of cluster: Int) -> UInt64 {
        let index = cluster - clusters.lowerBound
        let small = cells[index] & Self.countMask
        return small == Self.countMask ? large[index] ?? UInt64(small) : UInt64(small)
    }

    /// Whether an active entry's "copied" flag contradicts a refcount.
    func contradicts(_ cluster: Int, refcount: UInt64) -> Bool {
        let cell = cells[cluster - clusters.lowerBound]
        return cell & (refcount == 1 ? Self.sharedBit : Self.copiedBit) != 0
    }

    /// Whether nothing refers to any cluster of `range`, which lies in this window.
    func isFree(_ range: Range<Int>) -> Bool {
        range.allSatisfy { cells[$0 - clusters.lowerBound] == 0 }
    }
}
