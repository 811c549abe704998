import BlockTestSupport
import Foundation
import Testing

/// Random command sequences, done by Platter and by QEMU's tools on twin images, which must hold the same
/// bytes after every step, read by either program, and be sound at the end.
///
/// `PLATTER_DIFFERENTIAL=FIRST-LAST` runs those sequences alone.
@Suite(.enabled(if: Peer.isExpected)) struct DifferentialTests {
    /// Numbers of sequences that run one after the other.
    static let chunks: [ClosedRange<Int>] = {
        let numbers = asked ?? 1...(TestEffort.isLong ? 2000 : 60)
        let size = max(1, numbers.count / 20)
        return stride(from: numbers.lowerBound, through: numbers.upperBound, by: size).map {
            $0...min(numbers.upperBound, $0 + size - 1)
        }
    }()

    private static var asked: ClosedRange<Int>? {
        let text = ProcessInfo.processInfo.environment["PLATTER_DIFFERENTIAL"] ?? ""
        let ends = text.split(separator: "-").compactMap { Int($0) }
        guard let first = ends.first, let last = ends.last, first <= last else { return nil }
        return first...last
    }

    @Test(.timeLimit(.minutes(120)), arguments: chunks)
    func sequences(_ numbers: ClosedRange<Int>) throws {
        for number in numbers {
            var sequence = try TwinSequence(seed: UInt64(number) &+ TestEffort.seed &* 1_000_003)
            do { try sequence.run() } catch {
                Issue.record("sequence \(number): \(error)\n\(sequence.story)")
            }
        }
    }
}
