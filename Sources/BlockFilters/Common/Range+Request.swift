import BlockCore

extension Range<Int> {
    /// The bytes of a request.
    ///
    /// - Throws: `io` for a negative offset, or one so large that no disk ends behind it.
    static func request(_ offset: Int, _ count: Int) throws(BlockError) -> Range<Int> {
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard offset >= 0, count >= 0, !overflow else {
            throw BlockError(.io, "Input/output error", offset: offset)
        }
        return offset..<end
    }

    /// This range grown to whole blocks of `unit` bytes.
    ///
    /// - Throws: `io` when its end overflows.
    func grown(to unit: Int) throws(BlockError) -> Range<Int> {
        guard let end = upperBound.roundedUp(to: unit) else {
            throw BlockError(.io, "Input/output error", offset: lowerBound)
        }
        return lowerBound.roundedDown(to: unit)..<end
    }
}
