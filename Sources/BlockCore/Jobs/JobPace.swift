/// The arithmetic of a job's speed: when its next step may begin.
///
/// Steps begin at an even pace. A job that was held up by its files catches up by one slice at most, and a
/// step that is longer than a slice (a large cluster, or one that was cut for a higher speed) waits before it
/// begins. Pure: the caller passes the time, in nanoseconds from any fixed point, and does the waiting.
public struct JobPace: Sendable, Equatable {
    /// The time within which a change of speed takes effect, and the most by which a job catches up, in
    /// nanoseconds.
    public static let sliceNanoseconds = 100_000_000
    /// Bytes a second; 0 for no limit.
    public private(set) var bytesPerSecond: Int
    /// When the next step may begin; `nil` before the first one.
    private var next: Int?

    /// A pace of that many bytes a second; 0 for no limit.
    public init(bytesPerSecond: Int) { self.bytesPerSecond = max(0, bytesPerSecond) }

    /// The bytes that one step should move at most, so that it takes half a slice; `nil` without a limit.
    public var stepBytes: Int? { bytesPerSecond > 0 ? max(1, bytesPerSecond / 20) : nil }

    /// Takes the next turn, for a step that moves `bytes`.
    ///
    /// - Returns: when it may begin, in nanoseconds, `now` at the earliest.
    public mutating func reserve(_ bytes: Int, at now: Int) -> Int {
        guard bytesPerSecond > 0 else { return now }
        let span = nanoseconds(for: bytes)
        // A long step is paid for in advance, but for its last half slice.
        let wait = max(0, span - Self.sliceNanoseconds / 2)
        let earliest = now - Self.sliceNanoseconds + min(span, Self.sliceNanoseconds)
        let start = max(next ?? now, earliest) + wait
        next = start + span - wait
        return max(start, now)
    }

    /// Gives a turn back that was not used.
    public mutating func giveBack(_ bytes: Int) {
        if bytesPerSecond > 0 { next = next.map { $0 - nanoseconds(for: bytes) } }
    }

    /// Changes the speed.
    ///
    /// What was moved already and not yet waited for is waited for at the new speed.
    public mutating func setSpeed(_ bytesPerSecond: Int, at now: Int) {
        let owed = next.map { Double(max(0, $0 - now)) * Double(self.bytesPerSecond) / 1e9 } ?? 0
        self.bytesPerSecond = max(0, bytesPerSecond)
        next = self.bytesPerSecond > 0 ? now + nanoseconds(for: Int(min(owed, 1e17))) : nil
    }

    /// The time that `bytes` take, at most some years.
    private func nanoseconds(for bytes: Int) -> Int {
        Int(min(Double(max(0, bytes)) / Double(bytesPerSecond) * 1e9, 1e17))
    }
}
