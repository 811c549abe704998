/// The units of a file (clusters, blocks, grains) that something uses, one bit each. A value.
struct UnitBitmap: Sendable {
    /// The units that it knows; no other is ever used.
    private(set) var units: Range<Int>
    /// How many units are used.
    private(set) var usedCount = 0
    private var words: [UInt64]

    /// None of these units is used.
    init(_ units: Range<Int>) {
        self.units = units
        words = [UInt64](repeating: 0, count: (units.count + 63) / 64)
    }

    /// How many units nothing uses.
    var unusedCount: Int { units.count - usedCount }

    /// Whether a unit is used.
    func contains(_ unit: Int) -> Bool {
        guard units.contains(unit) else { return false }
        let index = unit - units.lowerBound
        return words[index / 64] & 1 << UInt64(index % 64) != 0
    }

    /// Whether any unit of a range is used.
    func containsAny(of range: Range<Int>) -> Bool {
        range.clamped(to: units).contains { contains($0) }
    }

    /// Takes a unit. `false` when it was used, or is none that this set knows.
    @discardableResult
    mutating func insert(_ unit: Int) -> Bool {
        guard units.contains(unit) else { return false }
        let index = unit - units.lowerBound
        let bit: UInt64 = 1 << UInt64(index % 64)
        guard words[index / 64] & bit == 0 else { return false }
        words[index / 64] |= bit
        usedCount += 1
        return true
    }

    /// Takes all units of a range that this set knows.
    mutating func insert(_ range: Range<Int>) {
        for unit in range.clamped(to: units) { insert(unit) }
    }

    /// Takes all units of a range, or none. `false` when one of them was used or is not known.
    mutating func insertUnused(_ range: Range<Int>) -> Bool {
        guard range.isEmpty || range.clamped(to: units) == range else { return false }
        if containsAny(of: range) { return false }
        insert(range)
        return true
    }

    /// Nothing uses these units any more.
    mutating func remove(_ range: Range<Int>) {
        for unit in range.clamped(to: units) where contains(unit) {
            let index = unit - units.lowerBound
            words[index / 64] &= ~(1 << UInt64(index % 64))
            usedCount -= 1
        }
    }

    /// Knows the units up to `end`, too.
    mutating func grow(to end: Int) {
        guard end > units.upperBound else { return }
        units = units.lowerBound..<end
        let wanted = (units.count + 63) / 64
        if wanted > words.count { words += [UInt64](repeating: 0, count: wanted - words.count) }
    }

    /// The first unit from `start` on that nothing uses; `nil` when there is none.
    func firstUnused(from start: Int) -> Int? {
        var index = max(start, units.lowerBound) - units.lowerBound
        while index < units.count {
            let word = words[index / 64] | ((1 << UInt64(index % 64)) &- 1)
            if word != .max {
                let found = index / 64 * 64 + (~word).trailingZeroBitCount
                return found < units.count ? found + units.lowerBound : nil
            }
            index = (index / 64 + 1) * 64
        }
        return nil
    }

    /// The first place from `start` on where `count` units in a row are unused; `nil` when there is none.
    func firstUnused(_ count: Int, from start: Int) -> Int? {
        var first = firstUnused(from: start)
        while let place = first, place <= units.upperBound - count {
            guard let taken = (place..<place + count).last(where: { contains($0) }) else { return place }
            first = firstUnused(from: taken + 1)
        }
        return nil
    }

    /// The last unit that is used.
    var lastUsed: Int? {
        guard let word = words.lastIndex(where: { $0 != 0 }) else { return nil }
        return units.lowerBound + word * 64 + 63 - words[word].leadingZeroBitCount
    }
}
