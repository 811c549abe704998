/// The arithmetic of a job's speed: when its next step may begin.
///
/// Steps begin at an even pace. A job that was held up by its files catches up by one slice at most. Pure: the
/// caller passes the time, in nanoseconds from any fixed point, and does the waiting.
public struct JobPace: Sendable, Equatable {
    /// The time within which a change of speed takes effect, and the most by which a job catches up, in
    /// nanoseconds.
    public static let sliceNanoseconds = 100_000_000
    /// Bytes a second; 0 for no limit.
    public let bytesPerSecond: Int
    /// When the next step may begin; `nil` before the first one.
    private var next: Int?

    public init(bytesPerSecond: Int) { self.bytesPerSecond = max(0, bytesPerSecond) }

    /// The bytes that one step should move at most, so that it takes half a slice; `nil` without a limit.
    public var stepBytes: Int? { bytesPerSecond > 0 ? max(1, bytesPerSecond / 20) : nil }

    /// Takes the next turn, for a step that moves `bytes`.
    ///
    /// - Returns: when it may begin, in nanoseconds, `now` at the earliest.
    public mutating func reserve(_ bytes: Int, at now: Int) -> Int {
        guard bytesPerSecond > 0 else { return now }
        let start = max(next ?? now, now - Self.sliceNanoseconds)
        let span = min(Double(max(0, bytes)) / Double(bytesPerSecond) * 1e9, 1e17)
        next = start + Int(span)
        return max(start, now)
    }
}
