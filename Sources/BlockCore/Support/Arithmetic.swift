extension Int {
    /// How many units of `unit` (> 0) hold this many, which is not negative.
    @inlinable
    public func dividedRoundingUp(by unit: Int) -> Int {
        let (quotient, rest) = quotientAndRemainder(dividingBy: unit)
        return rest == 0 ? quotient : quotient + 1
    }
}

extension RandomAccessCollection {
    /// The first index from which on `isBehind` holds; all elements for which it does not come before those
    /// for which it does.
    ///
    /// - Complexity: O(log *n*).
    @inlinable
    public func partitioningIndex(where isBehind: (Element) -> Bool) -> Index {
        var low = startIndex
        var left = count
        while left > 0 {
            let half = left / 2
            let middle = index(low, offsetBy: half)
            if isBehind(self[middle]) {
                left = half
            } else {
                low = index(after: middle)
                left -= half + 1
            }
        }
        return low
    }
}
