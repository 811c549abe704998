import BlockCore

/// What a job does with a run of guest bytes.
enum RunAction: Sendable {
    /// Leave it: the target already has the contents, or does not need them.
    case skip
    /// Make the target read as zeroes.
    case zero
    /// Read it and write its data.
    case copy
    /// Make the target share the source's space; in whole units only. A unit that has another action in it is
    /// copied.
    case share
}

/// A run of guest bytes with one action.
struct Run: Sendable, Equatable {
    var range: Range<Int>
    var action: RunAction
}

/// Walks a disk from start to end in runs of whole units. Each answer of the map is used up before the next
/// look-up.
///
/// Used by one thread at a time.
struct RunCursor: Sendable {
    /// The action at a guest offset, and the number of bytes (at least 1, at most the limit) for which it
    /// holds.
    typealias Look = @Sendable (_ offset: Int, _ limit: Int) throws(BlockError) -> (RunAction, Int)

    /// The disk's size in bytes.
    let end: Int
    /// The unit in bytes: runs start at its multiples, and end there or at the end of the disk.
    let unit: Int
    private let look: Look
    private var offset = 0
    /// The run of the last look-up; the part behind ``offset`` is still to be used.
    private var known = Run(range: 0..<0, action: .skip)

    init(end: Int, unit: Int, look: @escaping Look) {
        self.end = end
        self.unit = unit
        self.look = look
    }

    /// The next run, at most `limit` (a multiple of the unit) bytes long; `nil` at the end of the disk.
    mutating func next(limit: Int) throws(BlockError) -> Run? {
        guard offset < end else { return nil }
        let start = offset
        let here = try answer(at: start)
        let stop = min(here.range.upperBound, start + min(limit, end - start))
        let whole = stop == end ? end : stop.roundedDown(to: unit)
        if whole > start {
            offset = whole
            return Run(range: start..<whole, action: here.action)
        }
        return try mixedUnit(at: start, beginning: here)
    }

    /// A unit that several runs share: it gets their action if that is the same, or else is copied as a
    /// whole.
    private mutating func mixedUnit(at start: Int, beginning first: Run) throws(BlockError) -> Run {
        let stop = start + min(unit, end - start)
        var action = first.action
        var position = first.range.upperBound
        while position < stop {
            let more = try answer(at: position)
            if more.action != action { action = .copy }
            position = more.range.upperBound
        }
        offset = stop
        return Run(range: start..<stop, action: action)
    }

    /// The run at `position`, from there to its end.
    private mutating func answer(at position: Int) throws(BlockError) -> Run {
        if !known.range.contains(position) {
            let (action, length) = try look(position, end - position)
            known = Run(range: position..<position + max(1, min(length, end - position)), action: action)
        }
        return Run(range: position..<known.range.upperBound, action: known.action)
    }
}
