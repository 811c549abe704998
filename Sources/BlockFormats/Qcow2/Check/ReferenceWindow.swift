/// Counts of how often host clusters are referred to, for one window of the file.
///
/// One byte a cluster, whatever the image's size: a file with more clusters is counted in several passes.
/// Not thread-safe.
struct ReferenceWindow {
    /// Clusters counted in one pass: 1.5 TiB of usual ones. Each pass reads all tables again.
    static let size = 24 << 20

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

    /// Counts data clusters of an active table: one reference to each, and how their entries are flagged.
    mutating func countActive(_ run: Range<Int>, isCopied: Bool) {
        let inside = run.clamped(to: clusters)
        if inside.isEmpty { return }
        let flag = isCopied ? Self.copiedBit : Self.sharedBit
        let start = inside.lowerBound - clusters.lowerBound
        let range = start..<start + inside.count
        if times == 1, countSmall(range, flag) { return }
        for index in range {
            add(index)
            cells[index] |= flag
        }
    }

    /// Counts one reference to each, unless one of the cells is full. Without a branch in its loops.
    private mutating func countSmall(_ range: Range<Int>, _ flag: UInt8) -> Bool {
        cells.withUnsafeMutableBufferPointer { cells in
            var highest: UInt8 = 0
            for index in range { highest = max(highest, cells[index] & Self.countMask) }
            guard highest < Self.countMask else { return false }
            for index in range { cells[index] = (cells[index] &+ 1) | flag }
            return true
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
        return cells.withUnsafeBytes { cells in
            var step = 0
            while step < limit {
                if limit &- step >= Self.groupSize,
                    Self.agreesInGroup(cells, start &+ step, block, (entry &+ step) &* 2)
                {
                    step &+= Self.groupSize
                    continue
                }
                let stored = UInt16(
                    bigEndian: block.unsafeLoadUnaligned(
                        fromByteOffset: (entry &+ step) &* 2, as: UInt16.self))
                let cell = cells[start &+ step]
                let wrongFlag = stored == 1 ? Self.sharedBit : Self.copiedBit
                let count = cell & Self.countMask
                if UInt16(count) != stored || cell & wrongFlag != 0 || count == Self.countMask { return step }
                step &+= 1
            }
            return limit
        }
    }

    private static let groupSize = 8

    /// Whether eight clusters are all used once, by a "copied" entry or by metadata, or all unused, and are
    /// counted so: what nearly all of a sound file is.
    private static func agreesInGroup(
        _ cells: UnsafeRawBufferPointer, _ index: Int, _ block: RawSpan, _ offset: Int
    ) -> Bool {
        let low = block.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self)
        let high = block.unsafeLoadUnaligned(fromByteOffset: offset &+ 8, as: UInt64.self)
        guard low == high else { return false }
        let group = cells.loadUnaligned(fromByteOffset: index, as: UInt64.self)
        if UInt64(bigEndian: low) == 0x0001_0001_0001_0001 {
            return group & ~(UInt64(copiedBit) &* ones) == ones
        }
        return low == 0 && group == 0
    }

    /// One in each of eight cells.
    private static let ones: UInt64 = 0x0101_0101_0101_0101

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
