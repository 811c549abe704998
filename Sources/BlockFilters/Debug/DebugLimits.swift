import BlockCore

/// The limits on requests that a ``DebugDriver`` imitates: their alignment and their largest size. All in
/// bytes; 0 for no limit.
struct DebugLimits: Sendable {
    /// Reads and writes of parts of blocks of this size count as whole blocks.
    var alignment = 0
    var maximumTransfer = 0
    /// Shorter zeroings count as writes.
    var zeroAlignment = 0
    var maximumZero = 0
    var discardAlignment = 0
    var maximumDiscard = 0

    init() {}

    /// Takes the limits out of `options`.
    ///
    /// - Throws: `invalidArgument` for limits that contradict each other.
    init(_ options: inout OptionTree, over child: BlockNode) throws(BlockError) {
        alignment = try options.takeSize("align") ?? 0
        if alignment > 0, alignment >= Int32.max || !alignment.isPowerOfTwo {
            throw Self.contradiction("align", alignment)
        }
        let unit = max(alignment, child.requestAlignment)
        maximumTransfer = try Self.take("max-transfer", &options, unit)
        zeroAlignment = try Self.take("opt-write-zero", &options, unit)
        maximumZero = try Self.take("max-write-zero", &options, max(zeroAlignment, unit))
        discardAlignment = try Self.take("opt-discard", &options, unit)
        maximumDiscard = try Self.take("max-discard", &options, max(discardAlignment, unit))
    }

    private static func take(
        _ key: String, _ options: inout OptionTree, _ unit: Int
    ) throws(BlockError) -> Int {
        let size = try options.takeSize(key) ?? 0
        guard size < Int32.max, size % unit == 0 else { throw contradiction(key, size) }
        return size
    }

    private static func contradiction(_ key: String, _ size: Int) -> BlockError {
        BlockError(.invalidArgument, "Cannot meet constraints with \(key) \(size)")
    }

    /// `range` grown to whole blocks.
    func whole(_ range: Range<Int>) -> Range<Int> {
        guard alignment > 1 else { return range }
        return range.lowerBound.roundedDown(
            to: alignment)..<(range.upperBound.roundedUp(to: alignment) ?? .max)
    }

    /// Calls `body` for the parts of `range` in order: split at multiples of `unit`, so that only the first
    /// and the last part may be smaller, and no longer than `maximum` bytes.
    static func eachPart(
        of range: Range<Int>, unit: Int, maximum: Int, _ body: (Range<Int>) throws(BlockError) -> Void
    ) throws(BlockError) {
        var rest = range
        while !rest.isEmpty {
            var end = rest.upperBound
            if unit > 1 {
                let head = rest.lowerBound % unit
                let inside = end.roundedDown(to: unit)
                if head > 0 {
                    end = min(end, rest.lowerBound - head + unit)
                } else if inside > rest.lowerBound {
                    end = inside
                }
            }
            if maximum > 0 { end = min(end, rest.lowerBound + maximum) }
            try body(rest.lowerBound..<end)
            rest = end..<rest.upperBound
        }
    }
}
