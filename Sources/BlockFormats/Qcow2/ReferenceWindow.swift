/// Counts of how often host clusters are referred to, for one window of the file.
///
/// One byte a cluster, whatever the image's size: a file with more clusters is counted in several passes.
/// Not thread-safe.
struct ReferenceWindow {
    /// Clusters counted in one pass over a file of `total` clusters: few megabytes for most files, few passes
    /// for very large ones.
    static func size(total: Int) -> Int { min(24 << 20, max(4 << 20, total / 8)) }

    /// The clusters that this window counts.
    let clusters: Range<Int>
    private var cells: [UInt8]
    /// Counts that do not fit into a cell.
    private var large: LargeCounts
    /// How many references each call counts.
    var times: UInt64 = 1

    private static let countMask: UInt8 = 0x3f
    private static let copiedBit: UInt8 = 0x40
    private static let sharedBit: UInt8 = 0x80

    init(_ clusters: Range<Int>) {
        self.clusters = clusters
        cells = [UInt8](repeating: 0, count: clusters.count)
        large = LargeCounts(count: clusters.count)
    }

    /// Counts one reference to each of `range` that lies in this window.
    mutating func count(_ range: Range<Int>) {
        let inside = range.clamped(to: clusters)
        for cluster in inside { add(cluster - clusters.lowerBound) }
    }

    /// Counts one reference to each cluster that has none.
    mutating func countUnused() {
        for index in cells.indices where cells[index] & Self.countMask == 0 { add(index) }
    }

    private mutating func add(_ index: Int) {
        let cell = cells[index]
        if times == 1, cell & Self.countMask < Self.countMask {
            cells[index] = cell + 1
        } else {
            addLarge(index)
        }
    }

    private mutating func addLarge(_ index: Int) {
        let sum = count(of: index + clusters.lowerBound) + times
        let small = UInt8(truncatingIfNeeded: min(sum, UInt64(Self.countMask)))
        cells[index] = cells[index] & ~Self.countMask | small
        if small == Self.countMask { large[index] = sum }
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

    /// How many clusters from `first` on nothing refers to; at most `limit`, and not beyond this window.
    func unused(from first: Int, limit: Int) -> Int {
        let start = first - clusters.lowerBound
        let end = min(cells.count, start + limit)
        var index = start
        while index < end, cells[index] == 0 { index &+= 1 }
        return index - start
    }

    /// The last cluster of `range` (which lies in this window) that anything refers to.
    func lastUsed(in range: Range<Int>) -> Int? {
        range.last { cells[$0 - clusters.lowerBound] != 0 }
    }

    /// Whether an active entry's "copied" flag contradicts a refcount.
    func contradicts(_ cluster: Int, refcount: UInt64) -> Bool {
        let cell = cells[cluster - clusters.lowerBound]
        return cell & (refcount == 1 ? Self.sharedBit : Self.copiedBit) != 0
    }

    /// Counts a data cluster of an active table: one reference and how its entry is flagged.
    mutating func countActive(_ cluster: Int, isCopied: Bool) {
        let index = cluster &- clusters.lowerBound
        guard index >= 0, index < cells.count else { return }
        let cell = cells[index]
        let flag = isCopied ? Self.copiedBit : Self.sharedBit
        if times > 1 || cell & Self.countMask == Self.countMask {
            addLarge(index)
            cells[index] |= flag
        } else {
            cells[index] = (cell &+ 1) | flag
        }
    }

    /// How many clusters from `first` on have exactly the refcounts that the entries of a block state, in
    /// order, and flags that go with them. The common widths only; 0 for the others.
    ///
    /// - Parameters:
    ///   - entry: the number of the entry in `block` that belongs to `first`.
    ///   - limit: how many to look at; all lie in the window and in the block.
    func agreeing(from first: Int, with block: RawSpan, entry: Int, limit: Int, order: Int) -> Int {
        guard order == 4, block.byteCount >= (entry + limit) * 2 else { return 0 }
        let start = first - clusters.lowerBound
        return cells.withUnsafeBufferPointer { cells in
            for step in 0..<limit {
                let stored = UInt16(
                    bigEndian: block.unsafeLoadUnaligned(
                        fromByteOffset: (entry &+ step) &* 2, as: UInt16.self))
                let cell = cells[start &+ step]
                let wrongFlag = stored == 1 ? Self.sharedBit : Self.copiedBit
                let count = cell & Self.countMask
                if UInt16(count) != stored || cell & wrongFlag != 0 || count == Self.countMask { return step }
            }
            return limit
        }
    }

    /// Whether nothing refers to any cluster of `range`, which lies in this window.
    func isFree(_ range: Range<Int>) -> Bool {
        range.allSatisfy { cells[$0 - clusters.lowerBound] == 0 }
    }
}

/// Counts that do not fit into a cell of a window: many where many snapshots share much. 16 bits each, in
/// parts that take memory when they are first needed; few are larger.
private struct LargeCounts {
    private static let partBits = 12
    private var parts: [[UInt16]]
    private var larger: [Int: UInt64] = [:]

    init(count: Int) { parts = [[UInt16]](repeating: [], count: count >> Self.partBits + 1) }

    subscript(index: Int) -> UInt64? {
        get {
            let part = parts[index >> Self.partBits]
            if part.isEmpty { return nil }
            let count = part[index & (1 << Self.partBits - 1)]
            return count == .max ? larger[index] : count == 0 ? nil : UInt64(count)
        }
        set {
            let count = newValue ?? 0
            let part = index >> Self.partBits
            if parts[part].isEmpty { parts[part] = [UInt16](repeating: 0, count: 1 << Self.partBits) }
            parts[part][index & (1 << Self.partBits - 1)] = UInt16(clamping: count)
            if count >= UInt16.max { larger[index] = count }
        }
    }
}
