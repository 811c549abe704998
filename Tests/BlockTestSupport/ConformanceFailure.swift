import BlockCore
import Foundation

/// What a conformance check found, with all that is needed to see it again.
public struct ConformanceFailure: Error, CustomStringConvertible {
    public var message: String
    public var configuration: FormatConfiguration
    public var seed: UInt64
    public var operations: [DiskOperation]

    public var description: String {
        let steps = operations.enumerated().map { "  \($0.offset). \($0.element)" }.joined(separator: "\n")
        return """
            \(message)
            configuration: \(configuration)
            repeat with: PLATTER_TEST_SEED=\(seed) swift test --filter \(configuration.format.name)
            operations (\(operations.count)):
            \(steps)
            """
    }
}

/// Something does not hold; the suite adds the circumstances.
public struct Mismatch: Error, CustomStringConvertible {
    public var description: String
    public init(_ description: String) { self.description = description }
}

/// How much work the random tests do.
public enum TestEffort {
    /// `PLATTER_LONG_TESTS=1` asks for all combinations and more rounds.
    public static let isLong = ProcessInfo.processInfo.environment["PLATTER_LONG_TESTS"] == "1"
    /// `PLATTER_TEST_SEED` repeats a run.
    public static let seed =
        ProcessInfo.processInfo.environment["PLATTER_TEST_SEED"].flatMap { UInt64($0) } ?? 1

    /// `count`, or ten times that in a long run.
    public static func scaled(_ count: Int) -> Int { isLong ? count * 10 : count }
}
