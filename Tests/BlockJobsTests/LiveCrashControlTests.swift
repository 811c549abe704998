import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

@testable import BlockJobs

/// The crash test of jobs is itself on trial: what breaks the order of writes must be caught.
@Suite("LiveCrash controls", .timeLimit(.minutes(10))) struct LiveCrashControlTests {
    typealias Work = LiveCrashScenario.Work

    /// The violations of a scenario whose log was changed.
    private func violations(
        _ scenario: LiveCrashScenario, in range: ClosedRange<Int>? = nil, samples: Int = 4,
        _ change: (inout [StorageEvent]) -> Void = { _ in }
    ) -> [String] {
        var log = scenario.log
        change(&log)
        var replay = LiveCrashReplay(scenario)
        replay.moments = 12
        replay.samples = samples
        replay.run(log, in: range)
        return replay.violations
    }

    private func run(_ work: Work, _ format: LiveFormat, seed: UInt64 = 3) throws -> LiveCrashScenario {
        var scenario = try LiveCrashScenario(work, format, seed: seed)
        try scenario.run()
        return scenario
    }

    /// A driver that forgets to flush.
    @Test(arguments: [Work.mirror, .mirrorBlocking, .backup])
    func aDriverWithoutFlushesIsCaught(_ work: Work) throws {
        #expect(violations(try run(work, .fake(.none))).isEmpty)
        #expect(!violations(try run(work, .fake(.forgetsFlush))).isEmpty)
    }

    /// Data and the table that refers to it, written the other way round.
    @Test(arguments: [Work.stream, .mirror])
    func aLinkBeforeItsDataIsCaught(_ work: Work) throws {
        let scenario = try run(work, LiveFormat.all[1])
        let isCaught = scenario.log.indices.contains { index in
            guard case .write(LiveCrashScenario.disk, _, let bytes) = scenario.log[index], bytes.count >= 512,
                let link = nextWrite(scenario.log, after: index)
            else { return false }
            let found = violations(scenario, in: index + 1...link, samples: 1) { $0.swapAt(index, link) }
            return !found.isEmpty
        }
        #expect(isCaught)
    }

    /// The first write to the disk behind the next time that it was made durable.
    private func nextWrite(_ log: [StorageEvent], after index: Int) -> Int? {
        let file = LiveCrashScenario.disk
        guard let flush = log[index...].firstIndex(of: .flush(file: file)) else { return nil }
        return log[flush...].firstIndex { event in
            if case .write(file, _, _) = event { true } else { false }
        }
    }

    /// The flush with which a job makes what it copied durable, taken out of what really happened.
    @Test(arguments: [Work.stream, .commit])
    func aJobWithoutItsFlushIsCaught(_ work: Work) throws {
        let scenario = try run(work, LiveFormat.all[1], seed: 4)
        let file = work == .stream ? LiveCrashScenario.disk : "middle"
        let flushes = scenario.log.indices.filter { index in
            if case .flush(file) = scenario.log[index] { true } else { false }
        }
        let isCaught = flushes.contains { index in
            let end = min(index + 12, scenario.log.count)
            let found = violations(scenario, in: index + 1...end, samples: 3) {
                $0[index] = .nothing(in: file)
            }
            return !found.isEmpty
        }
        #expect(isCaught, "none of \(flushes.count) flushes")
    }

    /// A bitmap's bits that reach the file after the mark that they are good.
    @Test func aBitmapStoredLateIsCaught() throws {
        let scenario = try run(.incrementalBackup, LiveFormat.all[1])
        let end = scenario.log.count
        #expect(violations(scenario, in: end - 24...end).isEmpty)
        let writes = (end - 24..<end).filter { index in
            if case .write(LiveCrashScenario.disk, _, _) = scenario.log[index] { true } else { false }
        }
        let isCaught = writes.contains { index in
            let found = violations(scenario, in: index...end, samples: 0) { log in
                log.append(log[index])
                log[index] = .nothing(in: LiveCrashScenario.disk)
            }
            return found.contains { $0.contains("the bitmap") }
        }
        #expect(isCaught, "none of \(writes.count) writes")
    }
}

extension StorageEvent {
    /// An event without an effect, which keeps the numbers of the others.
    fileprivate static func nothing(in file: String) -> StorageEvent { .zero(file: file, range: 0..<0) }
}
