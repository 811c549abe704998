import BlockCore

extension ConformanceSuite {
    /// Stops after every logged event and looks at what a reopened image holds.
    func checkCrashes(seed: UInt64) throws {
        try run(seed: seed, count: operationCount / 2) { operations in
            let session = try ImageSession.new(configuration)
            let files = session.store.files
            for operation in operations { try session.perform(operation) }
            let end = session.store.logCount
            try session.node.close()
            try replay(session, from: files, upTo: end, seed: seed)
        }
    }

    private func replay(
        _ session: ImageSession, from files: [String: SparseBytes], upTo end: Int, seed: UInt64
    ) throws {
        var random = SeededRandom(seed: seed)
        try CrashPoints.replay(
            Array(session.store.log.prefix(end)), over: files, diskBytes: configuration.virtualSize,
            seed: seed
        ) { files, point, moment in
            try survive(files, session.possibleStates(at: point), moment, &random)
        }
    }

    /// Opens what a crash left, which may repair it, compares, checks, and goes on using it.
    private func survive(
        _ files: [String: SparseBytes], _ states: [ReferenceDisk], _ moment: String,
        _ random: inout SeededRandom
    ) throws {
        let store = TestStore(files)
        do {
            let session = try ImageSession(
                configuration, store: store, model: ReferenceDisk(size: 0))
            session.model = try DiskComparison.accept(session.node, from: states)
            let unit = session.abilities.unit
            for stamp in 0..<2 where session.model.size > 0 {
                let offset = random.number(in: 0..<session.model.size) / unit * unit
                try session.perform(
                    .write(offset: offset, count: min(unit, 65536), stamp: 9000 + stamp, noise: false))
            }
            try session.perform(.reopen)
            try session.compareAll()
            try session.finish(leaksAllowed: true, mayRepair: configuration.checkMayRepairAfterCrash)
        } catch { throw Mismatch("\(moment): \(error)") }
    }
}

/// Which moments of a log are tried: all of a short one, an even choice of a long one.
public enum CrashPoints {
    /// How many power failures are drawn at each point.
    public static let samples = TestEffort.isLong ? 6 : 2
    /// The numbers of events after which to stop; always with the first and the last. Fewer for a large disk,
    /// which takes longer to compare.
    public static func chosen(from count: Int, diskBytes: Int = 0, seed: UInt64) -> [Int] {
        let most = TestEffort.isLong ? 2000 : max(10, min(60, (48 << 20) / max(diskBytes, 1)))
        guard count > most else { return Array(0...count) }
        var random = SeededRandom(seed: seed)
        var points: Set<Int> = [0, count]
        while points.count < most { points.insert(random.number(in: 0..<count)) }
        return points.sorted()
    }

    /// Longer logs are not tried whole.
    private static let longestLog = 5000
    /// Nor are those whose replaying would compare more bytes than this.
    private static let mostWork = TestEffort.isLong ? 64 << 30 : 2 << 30

    /// Goes through a log and lets `judge` look at what every kill leaves, and at what sampled power failures
    /// leave at chosen moments.
    public static func replay(
        _ log: [StorageEvent], over files: [String: SparseBytes], diskBytes: Int = 0, seed: UInt64,
        judge: (_ files: [String: SparseBytes], _ point: Int, _ moment: String) throws -> Void
    ) throws {
        var replay = CrashReplay(files: files, log: log)
        var random = SeededRandom(seed: seed)
        let chosen = Set(chosen(from: log.count, diskBytes: diskBytes, seed: seed))
        for point in 0...log.count
        where log.count * diskBytes <= mostWork && log.count <= longestLog || chosen.contains(point) {
            replay.advance(to: point)
            try judge(replay.afterKill, point, "killed after event \(point) of \(log.count)")
            guard chosen.contains(point) else { continue }
            for sample in 0..<samples {
                try judge(
                    replay.afterPowerFailure(&random), point,
                    "power failed (\(sample)) after event \(point) of \(log.count)")
            }
        }
    }
}
