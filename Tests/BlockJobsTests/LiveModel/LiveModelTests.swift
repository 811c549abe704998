import BlockCore
import BlockTestSupport
import Foundation
import Testing

/// A random life of a device agrees with the model. A failing seed is printed with the steps that it needs.
///
/// `PLATTER_MODEL_SECONDS` lets it go on for that long; `PLATTER_TEST_SEED` is its first seed.
@Suite("Model of a live device", .timeLimit(.minutes(120))) struct LiveModelTests {
    private static let steps = 40
    private static let seconds =
        ProcessInfo.processInfo.environment["PLATTER_MODEL_SECONDS"].flatMap { Int($0) } ?? 0

    @Test func everyLifeAgreesWithTheModel() throws {
        let end = ContinuousClock.now + .seconds(Self.seconds)
        var figures = ProofFigures(part: "model", what: "Lives of 40 steps, free threads")
        var counts: [String: Int] = [:]
        var seed = TestEffort.seed
        while figures.tried < TestEffort.scaled(12) || ContinuousClock.now < end {
            let steps = LiveStep.sequence(seed: seed, count: Self.steps)
            figures.tried += 1
            do {
                counts.merge(try LiveModel.live(steps, seed: seed)) { $0 + $1 }
            } catch {
                figures.violations += 1
                Issue.record("\(Self.report(error, seed, steps))")
                break
            }
            seed += 1
        }
        figures.note()
        #expect(
            figures.violations > 0 || Self.missing(counts).isEmpty, "\(counts.sorted { $0.key < $1.key })")
    }

    /// The failure with the shortest steps that were seen to fail.
    private static func report(_ error: any Error, _ seed: UInt64, _ steps: [LiveStep]) -> String {
        var last = "\(error)"
        let fewer = LiveShrinking.shrink(steps, attempts: 120) { steps in
            // Threads run as they like: a failure may need several tries.
            (0..<3).contains { _ in
                do {
                    _ = try LiveModel.live(steps, seed: seed)
                    return false
                } catch {
                    last = "\(error)"
                    return true
                }
            }
        }
        let list = fewer.map { "  .\($0)," }.joined(separator: "\n")
        return
            "\(error)\nshrunk: \(last)\nrepeat with PLATTER_TEST_SEED=\(seed), or with these steps:\n\(list)"
    }

    /// What no life has done, so that a model that does nothing fails.
    private static func missing(_ counts: [String: Int]) -> [String] {
        let wanted = [
            "change", "guest", "rounds", "reopen", "overlay", "bitmap", "protect", "resize",
            "snapshot create",
            "stream done", "mirror done", "activeMirror done", "backup done", "activeCommit done",
            "commitMiddle done",
        ]
        return wanted.filter { counts[$0] == nil }
    }

    /// Steps that do not matter are dropped, and those that do stay.
    @Test func shrinkingKeepsWhatFails() {
        let steps = LiveStep.sequence(seed: 3, count: 40) + [.protect, .halt]
        let fewer = LiveShrinking.shrink(steps, attempts: 1000) { steps in
            steps.contains { $0.kind == "protect" } && steps.contains { $0.kind == "halt" }
        }
        #expect(fewer.count == 2)
    }
}
