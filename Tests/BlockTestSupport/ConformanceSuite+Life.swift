import BlockCore

/// A change of an image's life, which one failing call must not leave half done.
private enum LifeChange: CaseIterable {
    case open
    case close
    case toReadOnly
    case toWritable
}

extension ConformanceSuite {
    /// How many calls of one change fail, each in a run of its own.
    private static let mostPoints = TestEffort.isLong ? 100 : 6
    private static let modes = FaultPlan.Mode.usual + [.deadFromThen]

    /// Opens, closes and reopens the image, both ways, while the N-th call to the files fails, or that one
    /// and all after it, for N from 1 on.
    func checkLife(seed: UInt64) throws {
        try run(seed: seed, count: max(4, operationCount / 6)) { operations in
            let steps = operations.filter { !$0.isReopen }
            for change in LifeChange.allCases {
                let calls = try countCalls(change, steps)
                for mode in Self.modes {
                    for number in chosenCalls(calls, seed: seed) {
                        do { try fail(change, steps, at: number, mode) } catch {
                            throw Mismatch(
                                "\(change): call \(number) of \(calls) failed (\(mode)): \(error)")
                        }
                    }
                }
            }
        }
    }

    /// The first and the last calls, and some between them.
    private func chosenCalls(_ count: Int, seed: UInt64) -> [Int] {
        // A large disk takes long to compare.
        let most = max(4, min(Self.mostPoints, (8 << 20) / max(configuration.virtualSize, 1)))
        guard count > most else { return Array(1..<count + 1) }
        var random = SeededRandom(seed: seed)
        var chosen: Set<Int> = [1, 2, count - 1, count]
        while chosen.count < most { chosen.insert(1 + random.number(in: 0..<count)) }
        return chosen.sorted()
    }

    /// An image with unflushed changes in its first and its last unit; read-only where `change` wants that.
    private func prepared(for change: LifeChange, _ operations: [DiskOperation]) throws -> ImageSession {
        let session = try ImageSession.new(configuration)
        for operation in operations { try session.perform(operation) }
        try dirty(session, stamp: 7000)
        if change == .open { try session.node.close() }
        if change == .toWritable { try session.node.reopen(readOnly: true) }
        return session
    }

    private func dirty(_ session: ImageSession, stamp: Int) throws {
        let (size, unit) = (session.model.size, min(session.abilities.unit, 65536))
        let last = max(0, size - 1) / unit * unit
        for (index, offset) in [0, last].enumerated() {
            try session.perform(
                .write(offset: offset, count: min(unit, 4096), stamp: stamp + index, noise: false))
        }
    }

    private func countCalls(_ change: LifeChange, _ operations: [DiskOperation]) throws -> Int {
        let session = try prepared(for: change, operations)
        session.store.faults.disarm()
        switch change {
        case .open: session.replaceNode(try configuration.open(in: session.store, settings: Self.writable))
        case .close: try session.node.close()
        case .toReadOnly: try session.node.reopen(readOnly: true)
        case .toWritable: try session.node.reopen(readOnly: false)
        }
        let calls = session.store.faults.calls
        try session.node.close()
        return calls
    }

    private static let writable = OpenSettings(readOnly: false)

    private func fail(
        _ change: LifeChange, _ operations: [DiskOperation], at number: Int, _ mode: FaultPlan.Mode
    ) throws {
        let session = try prepared(for: change, operations)
        session.store.faults.arm(number, mode)
        switch change {
        case .open: try failOpen(session)
        case .close: try failClose(session, isDead: mode == .deadFromThen)
        case .toReadOnly, .toWritable: try failReopen(session)
        }
    }

    /// An opening that fails leaves no file open. The image is as it was: it was closed without a failure.
    private func failOpen(_ session: ImageSession) throws {
        let store = session.store
        do throws(BlockError) {
            let node = try configuration.open(in: store, settings: Self.writable)
            do throws(BlockError) { try node.close() } catch {}
        } catch {
            guard store.faults.failures > 0 else { throw error }
        }
        store.faults.disarm()
        guard store.openDisks == 0 else { throw Mismatch("\(store.openDisks) files stay open") }
        let again = try ImageSession(configuration, store: store, model: session.model)
        try again.compareAll()
        try again.finish(leaksAllowed: true, mayRepair: configuration.checkMayRepairAfterCrash)
    }

    /// A closing that fails reports it, closes everything all the same, and leaves an image that opens. Only
    /// a call that fails while others work may be made up for by another, so that nothing is lost.
    private func failClose(_ session: ImageSession, isDead: Bool) throws {
        let faults = session.store.faults
        let node = session.node
        var refusedWrites = 0
        let failure = try session.closeAfterFailures { refusedWrites = faults.refusedWrites }
        guard failure != nil || refusedWrites == 0 || !isDead else {
            throw Mismatch("closing reported nothing although \(refusedWrites) writes were refused")
        }
        guard (try? node.readBytes(at: 0, count: 1)) == nil else { throw Mismatch("a closed node reads") }
        try node.close()
        let again = try ImageSession(configuration, store: session.store, model: ReferenceDisk(size: 0))
        again.model = try DiskComparison.accept(again.node, from: session.statesAfterClose)
        try dirty(again, stamp: 7100)
        try again.compareAll()
        try again.finish(leaksAllowed: true, mayRepair: configuration.checkMayRepairAfterCrash)
    }

    /// A reopening that fails leaves the node as it was, with all its bytes; afterwards it works.
    private func failReopen(_ session: ImageSession) throws {
        let (node, faults) = (session.node, session.store.faults)
        let wasReadOnly = node.isReadOnly
        var failure: BlockError?
        do throws(BlockError) { try node.reopen(readOnly: !wasReadOnly) } catch { failure = error }
        guard failure == nil || faults.failures > 0 else {
            throw Mismatch("reopening failed although no call failed: \(failure?.message ?? "")")
        }
        faults.disarm()
        guard node.isReadOnly == ((failure == nil) != wasReadOnly) else {
            throw Mismatch("reopening \(failure == nil ? "worked" : "failed"), read-only: \(node.isReadOnly)")
        }
        try session.compareAll()
        try use(session, stamp: 7200)
        try node.reopen(readOnly: !node.isReadOnly)
        try use(session, stamp: 7300)
        try session.finish(leaksAllowed: true, mayRepair: configuration.checkMayRepairAfterCrash)
    }

    /// A node reads what it held, and takes writes if it is writable.
    private func use(_ session: ImageSession, stamp: Int) throws {
        let node = session.node
        guard node.children.allSatisfy({ $0.isReadOnly == node.isReadOnly }) else {
            throw Mismatch("the node is \(node.isReadOnly ? "" : "not ")read-only, its files differ")
        }
        if node.isReadOnly {
            let refusal = blockError { () throws(BlockError) in try node.writeZeroes(at: 0, count: 512) }
            guard refusal?.kind == .readOnly else {
                throw Mismatch("a read-only node answers \(refusal as Any)")
            }
        } else {
            try dirty(session, stamp: stamp)
            try session.perform(.flush)
        }
        try session.compareAll()
    }
}
