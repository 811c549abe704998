extension Range<Int>? {
    /// The smallest range that contains both.
    func union(_ other: Range<Int>?) -> Range<Int>? {
        guard let self, let other else { return self ?? other }
        return Swift.min(self.lowerBound, other.lowerBound)..<Swift.max(self.upperBound, other.upperBound)
    }
}
