import BlockCore

extension Range<Int> {
    /// The bytes of a request; `nil` for a negative or too large offset, which the node below refuses.
    static func request(_ offset: Int, _ count: Int) -> Range<Int>? {
        let (end, overflow) = offset.addingReportingOverflow(count)
        return overflow || offset < 0 || count < 0 ? nil : offset..<end
    }

    /// This range grown to whole blocks of `unit` bytes; `nil` when its end overflows.
    func grown(to unit: Int) -> Range<Int>? {
        guard let end = upperBound.roundedUp(to: unit) else { return nil }
        return lowerBound.roundedDown(to: unit)..<end
    }
}
