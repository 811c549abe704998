import BlockCore

/// What a job does with a run of the disk.
enum RunAction: Sendable {
    /// Nothing: the target has it, or never needs it.
    case skip
    /// Make the target read as zeroes.
    case zero
    /// Read it and write what is not zero.
    case copy
    /// Make the target share the source's space. Only whole units; with another action, a unit is copied.
    case share
}

/// A run of the disk and what is to be done with it. Offsets are in bytes.
struct Run: Sendable, Equatable {
    var range: Range<Int>
    var action: RunAction
}

/// Walks a disk from front to back in runs of whole units, asking as seldom as it can what they hold.
///
/// A value that one thread at a time uses.
struct RunCursor: Sendable {
    /// What is at an offset: what to do and for how many bytes (at least 1, at most the limit).
    typealias Look = @Sendable (_ offset: Int, _ limit: Int) throws(BlockError) -> (RunAction, Int)

    /// The disk's size in bytes.
    let end: Int
    /// Runs start at multiples of this many bytes, and end there or at the end of the disk.
    let unit: Int
    private let look: Look
    private var offset = 0
    /// The answer looked up last; what remains of it is used before asking again.
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

    /// A unit of several runs: one action when all agree, else it is copied as a whole.
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

    /// What is at `position`, to the end of its run.
    private mutating func answer(at position: Int) throws(BlockError) -> Run {
        if !known.range.contains(position) {
            let (action, length) = try look(position, end - position)
            known = Run(range: position..<position + max(1, min(length, end - position)), action: action)
        }
        return Run(range: position..<known.range.upperBound, action: known.action)
    }
}
