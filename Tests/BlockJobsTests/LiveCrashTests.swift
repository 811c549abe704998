import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

@testable import BlockJobs

/// Jobs at work while a guest writes, without power or killed at any event: the guest's disk opens, checks,
/// and has what was flushed or something later.
@Suite("LiveCrash", .timeLimit(.minutes(60))) struct LiveCrashTests {
    typealias Work = LiveCrashScenario.Work

    private static let rounds = TestEffort.isLong ? 2 : 1

    @Test("nothing that was flushed is lost", arguments: LiveFormat.all)
    func jobs(_ format: LiveFormat) throws {
        var figures = ProofFigures(part: "crash", what: "\(format)")
        defer { figures.note() }
        for work in Work.allCases where work.fits(format) {
            for round in 0..<Self.rounds {
                let replay = try replay(work, format, seed: TestEffort.seed &+ UInt64(round))
                figures.tried += replay.tried
                figures.violations += replay.violations.count
                for violation in replay.violations.prefix(3) { Issue.record("\(violation)") }
            }
        }
    }

    private func replay(_ work: Work, _ format: LiveFormat, seed: UInt64) throws -> LiveCrashReplay {
        var scenario = try LiveCrashScenario(work, format, seed: seed)
        do { try scenario.run() } catch { throw Mismatch("\(work) of \(format), seed \(seed): \(error)") }
        #expect(scenario.guest.requests > 10)
        var replay = LiveCrashReplay(scenario)
        replay.run()
        return replay
    }

    @Test("a seed replays: the same events in the same order")
    func seedsReplay() throws {
        for work in [Work.stream, .mirror, .backup] {
            var logs: [[StorageEvent]] = []
            for _ in 0..<2 {
                var scenario = try LiveCrashScenario(work, LiveFormat.all[1], seed: 5)
                try scenario.run()
                logs.append(scenario.log)
            }
            let isSame = logs[0] == logs[1]
            #expect(isSame && !logs[0].isEmpty, "\(work)")
        }
    }
}
