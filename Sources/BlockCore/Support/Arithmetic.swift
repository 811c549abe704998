extension Int {
    /// The number of units of size `unit` (> 0) that hold this number, which must not be negative.
    @inlinable
    public func dividedRoundingUp(by unit: Int) -> Int {
        let (quotient, rest) = quotientAndRemainder(dividingBy: unit)
        return rest == 0 ? quotient : quotient + 1
    }
}

extension RandomAccessCollection {
    /// The first index with `true` from `isBehind`, or `endIndex`; all elements with `false` must come first.
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
