import BlockCore

/// The parts of the conformance suite.
public enum ConformancePhase: Sendable, CaseIterable {
    /// Random operations against ``ReferenceDisk``.
    case random
    /// The ends of the disk, and read-only opening.
    case edges
    /// Readers and writers on many threads.
    case concurrency
    /// Kill and power failure after every write.
    case crash
    /// Every call to the file below fails once, or the disk is full from then on.
    case faults
    /// As `faults`, with one call that fails, which must not even leave a leak.
    case lostSpace
    /// The disk is full sooner or later.
    case fullDisk
    /// Opening, closing and reopening while calls to the files fail.
    case life
}

/// Judges a format driver by what it promises; see `docs/testing.md`.
///
/// - Parameters:
///   - operations: how many random operations a run makes.
///   - rounds: how many runs with random operations there are, each with another seed.
/// - Throws: ``ConformanceFailure`` with seed and operations, at the first finding.
public func checkFormatDriver(
    _ configurations: [FormatConfiguration],
    phases: [ConformancePhase] = [.random, .edges, .concurrency, .crash, .faults, .life],
    operations: Int = 60, rounds: Int = 1, seed: UInt64 = TestEffort.seed
) throws {
    for configuration in configurations {
        let suite = ConformanceSuite(configuration: configuration, operationCount: operations)
        if phases.contains(.edges) { try suite.checkEdges(seed: seed) }
        if phases.contains(.concurrency) { try suite.checkConcurrency(seed: seed) }
        for round in 0..<UInt64(TestEffort.scaled(rounds)) {
            // Random operations cost little beside crashes and faults.
            for part in 0..<UInt64(3) where phases.contains(.random) {
                try suite.checkRandomOperations(seed: seed &+ round &* 3 &+ part)
            }
            if phases.contains(.crash) { try suite.checkCrashes(seed: seed &+ round) }
            if phases.contains(.faults) { try suite.checkFaults(seed: seed &+ round) }
            if phases.contains(.lostSpace) {
                try suite.checkFaults(seed: seed &+ round, modes: [.ioErrorOnce], leaks: false)
            }
            if phases.contains(.life) { try suite.checkLife(seed: seed &+ round) }
            if phases.contains(.fullDisk) { try suite.checkFullDisk(seed: seed &+ round) }
        }
    }
}

/// The checks of one configuration.
struct ConformanceSuite {
    let configuration: FormatConfiguration
    let operationCount: Int

    /// Random operations for this configuration; the same for the same seed.
    func operations(seed: UInt64, count: Int) throws -> [DiskOperation] {
        let session = try ImageSession.new(configuration)
        var generator = OperationGenerator(
            seed: seed, size: configuration.virtualSize, abilities: session.abilities)
        try session.node.close()
        return generator.operations(count)
    }

    /// Runs `check` on random operations; what fails is cut down to the operations that matter.
    func run(
        seed: UInt64, count: Int, _ check: ([DiskOperation]) throws -> Void
    ) throws {
        let operations = try operations(seed: seed, count: count)
        do { try check(operations) } catch {
            let (shorter, reason) = shrink(operations, error, check)
            throw ConformanceFailure(
                message: "\(reason)", configuration: configuration, seed: seed, operations: shorter)
        }
    }

    /// Leaves out operations as long as it still fails; a bounded number of tries.
    private func shrink(
        _ operations: [DiskOperation], _ error: any Error, _ check: ([DiskOperation]) throws -> Void
    ) -> ([DiskOperation], any Error) {
        var best = (operations, error)
        let deadline = ContinuousClock.now + .seconds(10)
        var step = max(1, operations.count / 2)
        while true {
            var start = 0
            while start < best.0.count, ContinuousClock.now < deadline {
                var fewer = best.0
                fewer.removeSubrange(start..<min(start + step, fewer.count))
                do {
                    try check(fewer)
                    start += step
                } catch { best = (fewer, error) }
            }
            if step == 1 || ContinuousClock.now >= deadline { return best }
            step /= 2
        }
    }

    /// The random operations on image and model at once.
    func checkRandomOperations(seed: UInt64) throws {
        try run(seed: seed, count: operationCount) { operations in
            let session = try ImageSession.new(configuration)
            for operation in operations { try session.perform(operation) }
            try session.compareAll()
            try session.perform(.reopen)
            try session.compareAll()
            try session.finish()
        }
    }

    func failure(_ message: String, seed: UInt64) -> ConformanceFailure {
        ConformanceFailure(message: message, configuration: configuration, seed: seed, operations: [])
    }
}
