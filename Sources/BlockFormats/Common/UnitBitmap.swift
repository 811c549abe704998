/// The units of a file (clusters, blocks, grains) that are in use, one bit each. A value.
struct UnitBitmap: Sendable {
    /// The units of this set; no other unit is ever in use.
    private(set) var units: Range<Int>
    /// The number of used units.
    private(set) var usedCount = 0
    private var words: [UInt64]

    /// A set of these units, all unused.
    init(_ units: Range<Int>) {
        self.units = units
        words = [UInt64](repeating: 0, count: (units.count + 63) / 64)
    }

    /// The number of unused units.
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

    /// Marks a unit as used. `false` when it was used already or is not among ``units``.
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

    /// Marks all units of a range as used, as far as they are among ``units``.
    mutating func insert(_ range: Range<Int>) {
        for unit in range.clamped(to: units) { insert(unit) }
    }

    /// Marks all units of a range as used, or none. `false` when one was used already or is not among
    /// ``units``.
    mutating func insertUnused(_ range: Range<Int>) -> Bool {
        guard range.isEmpty || range.clamped(to: units) == range else { return false }
        if containsAny(of: range) { return false }
        insert(range)
        return true
    }

    /// Marks these units as unused.
    mutating func remove(_ range: Range<Int>) {
        for unit in range.clamped(to: units) where contains(unit) {
            let index = unit - units.lowerBound
            words[index / 64] &= ~(1 << UInt64(index % 64))
            usedCount -= 1
        }
    }

    /// Extends ``units`` to `end`.
    mutating func grow(to end: Int) {
        guard end > units.upperBound else { return }
        units = units.lowerBound..<end
        let wanted = (units.count + 63) / 64
        if wanted > words.count { words += [UInt64](repeating: 0, count: wanted - words.count) }
    }

    /// The first unused unit from `start` on; `nil` when there is none.
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

    /// The first of `count` adjacent unused units from `start` on; `nil` when there are none.
    func firstUnused(_ count: Int, from start: Int) -> Int? {
        var first = firstUnused(from: start)
        while let place = first, place <= units.upperBound - count {
            guard let taken = (place..<place + count).last(where: { contains($0) }) else { return place }
            first = firstUnused(from: taken + 1)
        }
        return nil
    }

    /// The last used unit; `nil` when all are unused.
    var lastUsed: Int? {
        guard let word = words.lastIndex(where: { $0 != 0 }) else { return nil }
        return units.lowerBound + word * 64 + 63 - words[word].leadingZeroBitCount
    }
}
