import BlockCore
import BlockTestSupport
import Testing

/// The conformance suite is itself on trial: it passes a correct driver and catches each broken one.
@Suite struct SuiteCanaryTests {
    private func configuration(_ bug: FakeBug) -> FormatConfiguration {
        var options = OptionTree()
        options["bug"] = bug.rawValue
        return FormatConfiguration(
            FakeFormat.self, options: [("cluster_size", "4096")], virtualSize: 150 << 10, backingSize: 90_000,
            openOptions: options)
    }

    @Test(.timeLimit(.minutes(1)))
    func correctDriverPasses() throws {
        try checkFormatDriver([configuration(.none)])
        try checkFormatDriver([
            FormatConfiguration(
                FakeFormat.self, options: [("cluster_size", "512")], virtualSize: 65_536 + 512)
        ])
    }

    /// Each bug with a phase that must see it.
    @Test(
        .timeLimit(.minutes(1)),
        arguments: [
            (FakeBug.mappingBeforeData, ConformancePhase.crash), (.forgetsFlush, .crash),
            (.losesWrite, .random),
            (.offByOne, .random), (.offByOne, .edges), (.ignoresErrors, .faults), (.forgetsBacking, .edges),
            (.forgetsBacking, .random), (.sharesClusters, .random), (.racesOnAllocation, .concurrency),
            (.forgetsTable, .random), (.losesTableOnFailure, .life),
            (.racesOnFlush, .concurrency),
        ])
    func brokenDriverIsCaught(_ bug: FakeBug, in phase: ConformancePhase) throws {
        try checkFormatDriver([configuration(.none)], phases: [phase])
        #expect(throws: ConformanceFailure.self) {
            try checkFormatDriver([configuration(bug)], phases: [phase])
        }
    }

    /// A failure tells how to see it again, with few operations.
    @Test(.timeLimit(.minutes(1)))
    func failureIsShortAndRepeatable() throws {
        let failure = try #require(throws: ConformanceFailure.self) {
            try checkFormatDriver([configuration(.losesWrite)], phases: [.random], seed: 42)
        }
        #expect(failure.operations.count <= 14)
        #expect("\(failure)".contains("PLATTER_TEST_SEED=42"))
    }
}
