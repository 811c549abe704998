import BlockCore

/// Does `action` on files again and again, stopped at another place each time, and lets `verify` judge what
/// is left: killed or without power after each write, and with each call failing.
///
/// - Parameters:
///   - files: what is there, durable, at the beginning.
///   - action: opens, works, closes. It may throw only what a failing call made it throw.
///   - verify: throws when what it finds is not what the action promises at that moment. Also called after an
///     action that was not stopped.
/// - Throws: ``Mismatch`` that tells the moment.
public func checkInterruption(
    of files: [String: SparseBytes], seed: UInt64 = TestEffort.seed, action: (TestStore) throws -> Void,
    verify: (TestStore) throws -> Void
) throws {
    let store = TestStore(files)
    store.faults.disarm()
    try action(store)
    let calls = store.faults.calls
    let log = store.log
    try judge(store, "done", verify)
    try CrashPoints.replay(log, over: files, seed: seed) { files, _, moment in
        try judge(TestStore(files), moment, verify)
    }
    for mode in FaultPlan.Mode.usual {
        for number in CrashPoints.chosen(from: calls, seed: seed) where number > 0 {
            let store = TestStore(files)
            store.faults.arm(number, mode)
            do { try action(store) } catch {
                guard store.faults.failures > 0 else { throw error }
            }
            store.faults.disarm()
            try judge(store, "call \(number) of \(calls) failed (\(mode))", verify)
        }
    }
}

private func judge(_ store: TestStore, _ moment: String, _ verify: (TestStore) throws -> Void) throws {
    do { try verify(store) } catch { throw Mismatch("\(moment): \(error)") }
}
