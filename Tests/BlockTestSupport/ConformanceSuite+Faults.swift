import BlockCore

extension ConformanceSuite {
    /// Lets the N-th call to the files fail, for N from 1 on, and looks at what is left.
    func checkFaults(seed: UInt64) throws {
        try run(seed: seed, count: operationCount / 3) { operations in
            let calls = try countCalls(operations)
            for mode in FaultPlan.Mode.allCases {
                let points = CrashPoints.chosen(
                    from: calls, diskBytes: configuration.virtualSize, seed: seed &+ 1)
                for number in points where number > 0 {
                    do { try fail(operations, at: number, mode) } catch {
                        throw Mismatch("call \(number) of \(calls) failed (\(mode)): \(error)")
                    }
                }
            }
        }
    }

    private func countCalls(_ operations: [DiskOperation]) throws -> Int {
        let session = try ImageSession.new(configuration)
        session.store.faults.disarm()
        for operation in operations { try session.perform(operation) }
        let calls = session.store.faults.calls
        try session.node.close()
        return calls
    }

    private func fail(_ operations: [DiskOperation], at number: Int, _ mode: FaultPlan.Mode) throws {
        let session = try ImageSession.new(configuration)
        session.store.faults.arm(number, mode)
        for operation in operations {
            try session.perform(operation, mayFail: true)
            if session.sawFailure && mode == .fullFromThen { break }
        }
        try session.closeAfterFailures()
        let again = try ImageSession(
            configuration, store: session.store, model: ReferenceDisk(size: 0))
        again.model = try DiskComparison.accept(again.node, from: session.statesAfterClose)
        try again.perform(.flush)
        try again.finish(leaksAllowed: true, mayRepair: configuration.checkMayRepairAfterCrash)
    }
}
