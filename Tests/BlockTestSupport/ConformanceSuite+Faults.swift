import BlockCore

extension ConformanceSuite {
    /// Lets the N-th call to the files fail, for N from 1 on, and looks at what is left.
    ///
    /// - Parameter leaks: `false` where one failed call must leave no space behind, if the image could be
    ///   closed all the same.
    func checkFaults(
        seed: UInt64, modes: [FaultPlan.Mode] = FaultPlan.Mode.usual, leaks: Bool = true
    ) throws {
        try run(seed: seed, count: operationCount / 3) { operations in
            let calls = try countCalls(operations)
            for mode in modes {
                let points = CrashPoints.chosen(
                    from: calls, diskBytes: configuration.virtualSize, seed: seed &+ 1)
                for number in points where number > 0 {
                    do { try fail(operations, at: number, mode, leaks: leaks) } catch {
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

    private func fail(
        _ operations: [DiskOperation], at number: Int, _ mode: FaultPlan.Mode, leaks: Bool
    ) throws {
        let session = try ImageSession.new(configuration)
        session.store.faults.arm(number, mode)
        for operation in operations {
            try session.perform(operation, mayFail: true)
            if session.sawFailure && mode == .fullFromThen { break }
        }
        let isClosed = try session.closeAfterFailures() == nil && session.reopensFailed == 0
        let again = try ImageSession(
            configuration, store: session.store, model: ReferenceDisk(size: 0))
        again.model = try DiskComparison.accept(again.node, from: session.statesAfterClose)
        try again.perform(.flush)
        try again.finish(leaksAllowed: leaks || !isClosed, mayRepair: configuration.checkMayRepairAfterCrash)
    }
}
