/// The units of a file (clusters, blocks, grains, sectors) that are in use, one bit each. A value.
///
/// Its memory grows with the highest used unit: whoever takes numbers from an image limits them first.
struct UnitBitmap: Sendable {
    /// The units of this set; no other unit is ever in use.
    private(set) var units: Range<Int>
    /// The number of used units.
    private(set) var usedCount = 0
    /// One past the highest used unit; the first unit when all are unused.
    private(set) var end: Int
    private var words: [UInt64] = []

    /// A set of these units, all unused.
    init(_ units: Range<Int>) {
        self.units = units
        end = units.lowerBound
    }

    /// The number of unused units.
    var unusedCount: Int { units.count - usedCount }

    /// The last used unit; `nil` when all are unused.
    var lastUsed: Int? { usedCount > 0 ? end - 1 : nil }

    /// Whether a unit is used.
    func contains(_ unit: Int) -> Bool {
        guard unit >= units.lowerBound, unit < end else { return false }
        let index = unit - units.lowerBound
        return words[index / 64] & 1 << UInt64(index % 64) != 0
    }

    /// Whether any unit of a range is used.
    func containsAny(of range: Range<Int>) -> Bool {
        firstUsed(from: range.lowerBound).map { $0 < range.upperBound } ?? false
    }

    /// Marks a unit as used. `false` when it was used already or is not among ``units``.
    @discardableResult
    mutating func insert(_ unit: Int) -> Bool {
        guard units.contains(unit) else { return false }
        return set(~0, bits: 1, at: unit - units.lowerBound) == 1
    }

    /// Marks all units of a range as used, as far as they are among ``units``. `false` when one of them was
    /// used already.
    @discardableResult
    mutating func insert(_ range: Range<Int>) -> Bool {
        let inside = range.clamped(to: units)
        return eachWord(of: inside) { set, index, bits in set.set(~0, bits: bits, at: index) } == inside.count
    }

    /// Marks all units of a range as used, or none. `false` when one was used already or is not among
    /// ``units``.
    mutating func insertUnused(_ range: Range<Int>) -> Bool {
        guard range.isEmpty || range.clamped(to: units) == range, !containsAny(of: range) else {
            return false
        }
        return insert(range)
    }

    /// Marks these units as unused.
    mutating func remove(_ range: Range<Int>) {
        let used = range.clamped(to: units.lowerBound..<end)
        eachWord(of: used) { set, index, bits in set.set(0, bits: bits, at: index) }
        guard used.upperBound == end, !used.isEmpty else { return }
        words.removeLast(words.count - (words.lastIndex { $0 != 0 } ?? -1) - 1)
        end = units.lowerBound + words.count * 64 - (words.last?.leadingZeroBitCount ?? 0)
    }

    /// Extends ``units`` to `end`.
    mutating func grow(to end: Int) { units = units.lowerBound..<max(end, units.upperBound) }

    /// The first unused unit from `start` on; `nil` when there is none.
    func firstUnused(from start: Int) -> Int? { first(from: start, isUsed: false) }

    /// The first used unit from `start` on; `nil` when there is none.
    func firstUsed(from start: Int) -> Int? { start < end ? first(from: start, isUsed: true) : nil }

    /// The first of `count` adjacent unused units from `start` on; `nil` when there are none.
    func firstUnused(_ count: Int, from start: Int) -> Int? {
        var next = firstUnused(from: start)
        while let place = next, place <= units.upperBound - count {
            guard let used = firstUsed(from: place), used < place + count else { return place }
            next = firstUnused(from: used)
        }
        return nil
    }

    // MARK: Words

    private func first(from start: Int, isUsed: Bool) -> Int? {
        var index = max(start, units.lowerBound) - units.lowerBound
        while index / 64 < words.count {
            let word = (isUsed ? words[index / 64] : ~words[index / 64]) >> UInt64(index % 64)
            if word != 0 {
                index += word.trailingZeroBitCount
                return index < units.count ? index + units.lowerBound : nil
            }
            index = (index / 64 + 1) * 64
        }
        return !isUsed && index < units.count ? index + units.lowerBound : nil
    }

    /// Runs `body` with the start and length of each part of a range that lies in one word, and adds up its
    /// results.
    @discardableResult
    private mutating func eachWord(
        of range: Range<Int>, _ body: (inout UnitBitmap, _ index: Int, _ bits: Int) -> Int
    ) -> Int {
        var (sum, index) = (0, range.lowerBound - units.lowerBound)
        while index < range.upperBound - units.lowerBound {
            let bits = min(64 - index % 64, range.upperBound - units.lowerBound - index)
            sum += body(&self, index, bits)
            index += bits
        }
        return sum
    }

    /// Sets bits of one word to those of `value`.
    ///
    /// - Returns: the number of bits that changed.
    private mutating func set(_ value: UInt64, bits: Int, at index: Int) -> Int {
        if index / 64 >= words.count {
            words += repeatElement(0, count: index / 64 + 1 - words.count)
        }
        let mask = (UInt64.max >> UInt64(64 - bits)) << UInt64(index % 64)
        let changed = (words[index / 64] ^ value) & mask
        words[index / 64] ^= changed
        let count = changed.nonzeroBitCount
        usedCount += value == 0 ? -count : count
        if value != 0 { end = max(end, units.lowerBound + index + bits) }
        return count
    }
}
