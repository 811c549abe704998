/// L2 tables that snapshots' L1 tables refer to, with how often, so that one that many share is read once.
struct SharedTables {
    /// How many are remembered: some megabytes. More are counted in several rounds.
    private static let maximumCount = 1 << 17

    private struct Use {
        var count: UInt64
        /// The guest offset that the first use maps.
        var guest: Int
    }

    /// By offset.
    private var uses: [Int: Use] = [:]

    var isFull: Bool { uses.count >= Self.maximumCount }

    /// Notes that `count` L1 entries refer to the table at `offset`.
    mutating func add(_ offset: Int, guest: Int, count: UInt64) {
        uses[offset, default: Use(count: 0, guest: guest)].count += count
    }

    /// Takes out all, in the order of the file.
    mutating func takeAll() -> [(offset: Int, guest: Int, count: UInt64)] {
        defer { uses.removeAll() }
        return uses.map { ($0.key, $0.value.guest, $0.value.count) }.sorted { $0.0 < $1.0 }
    }
}

/// The tables that were visited, as far as memory for that goes: a few may be visited again.
struct VisitedTables {
    private static let maximumCount = 1 << 18
    private var offsets: Set<Int> = []

    /// Whether the table at `offset` was not visited before, as far as is known.
    mutating func isFirstVisit(of offset: Int) -> Bool {
        guard offsets.count < Self.maximumCount else { return !offsets.contains(offset) }
        return offsets.insert(offset).inserted
    }
}

/// The L2 tables that an L1 table refers to more than once, which no sound one does.
struct RepeatedTables {
    /// Offsets, sorted.
    private var offsets: [Int] = []
    private var wasSeen: [Bool] = []
    private var counts: [UInt64] = []

    init(_ l1: [UInt64]) {
        var last = 0
        var isAscending = true
        for entry in l1 where entry & L2Entry.offsetMask != 0 {
            let offset = Int(entry & L2Entry.offsetMask)
            if offset <= last { isAscending = false }
            last = offset
        }
        if isAscending { return }
        var all: [Int] = []
        all.reserveCapacity(l1.count)
        for entry in l1 where entry & L2Entry.offsetMask != 0 { all.append(Int(entry & L2Entry.offsetMask)) }
        all.sort()
        for index in all.indices.dropFirst() where all[index] == all[index - 1] {
            if offsets.last == all[index] {
                counts[counts.count - 1] += 1
            } else {
                offsets.append(all[index])
                counts.append(2)
            }
        }
        wasSeen = [Bool](repeating: false, count: offsets.count)
    }

    /// How many entries refer to the table at `offset`.
    func uses(of offset: Int) -> UInt64 {
        if offsets.isEmpty { return 1 }
        let index = offsets.firstIndex(notBelow: offset)
        return index < offsets.count && offsets[index] == offset ? counts[index] : 1
    }

    /// Whether this is the first time that the table at `offset` is asked about.
    mutating func isFirstUse(of offset: Int) -> Bool {
        if offsets.isEmpty { return true }
        let index = offsets.firstIndex(notBelow: offset)
        guard index < offsets.count, offsets[index] == offset else { return true }
        defer { wasSeen[index] = true }
        return !wasSeen[index]
    }
}
