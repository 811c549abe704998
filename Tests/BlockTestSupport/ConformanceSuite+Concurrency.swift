import BlockCore
import Synchronization

extension ConformanceSuite {
    static let threads = 4

    /// Writers and readers on ranges of their own that share clusters, then on the same ranges, then in an
    /// image without anything.
    func checkConcurrency(seed: UInt64) throws {
        do {
            try checkDisjointWriters(seed: seed)
            try checkOverlappingWriters(seed: seed)
            try checkFreshImage(seed: seed)
        } catch { throw failure("concurrency: \(error)", seed: seed) }
    }

    /// Thread T owns every fourth stripe; stripes are no multiples of the cluster size. One more thread
    /// flushes, resizes and takes snapshots meanwhile.
    private func checkDisjointWriters(seed: UInt64) throws {
        let session = try ImageSession.new(configuration)
        let (node, abilities) = (session.node, session.abilities)
        let stripe = max(512, min(abilities.unit * 3 / 2, 96 << 10) / 512 * 512 + 512)
        let stripes = configuration.virtualSize / stripe
        let rounds = TestEffort.scaled(40)
        let history = StripeHistory(before: session.model, stripeBytes: stripe)
        let changer = ImageChanger(abilities: abilities, sizeBytes: configuration.virtualSize)
        try WorkerThreads.run(Self.threads + 1) { thread throws(BlockError) in
            var random = SeededRandom(seed: seed &+ UInt64(thread))
            guard thread < Self.threads else {
                return try changer.change(node, times: rounds / 4, &random)
            }
            for round in 0..<rounds where stripes >= Self.threads {
                let mine = random.number(in: 0..<stripes / Self.threads) * Self.threads + thread
                let operation = Self.stripeOperation(
                    mine * stripe, stripe, thread * 1000 + round, discards: true, &random)
                try history.act(operation, onStripe: mine, of: node)
                if random.number(in: 0..<20) == 0 { try node.flush() }
            }
        }
        session.model.resize(to: try node.length())
        history.bring(&session.model)
        try changer.checkSnapshots(session, history)
        try session.compareAll()
        try session.finish()
    }

    private static func stripeOperation(
        _ offset: Int, _ count: Int, _ stamp: Int, discards: Bool = false, _ random: inout SeededRandom
    ) -> DiskOperation {
        switch random.number(in: 0..<8) {
        case 0, 1: .writeZeroes(offset: offset, count: count, mayUnmap: true)
        case 2 where discards: .discard(offset: offset, count: count)
        default: .write(offset: offset, count: count, stamp: stamp, noise: false)
        }
    }

    /// All threads write the same few clusters; a sector holds one thread's bytes, never a mixture.
    private func checkOverlappingWriters(seed: UInt64) throws {
        let session = try ImageSession.new(configuration)
        let (node, unit) = (session.node, session.abilities.unit)
        let area = min(configuration.virtualSize / 512 * 512, max(unit, 4096) * 4, 1 << 20)
        guard area >= 1024 else { return try session.finish() }
        let rounds = TestEffort.scaled(30)
        let before = session.model
        let stamps = Mutex<[DiskOperation]>([])
        try WorkerThreads.run(Self.threads) { thread throws(BlockError) in
            var random = SeededRandom(seed: seed &+ 77 &+ UInt64(thread))
            for round in 0..<rounds {
                let first = random.number(in: 0..<area / 512) * 512
                let count = min(512 * (1 + random.number(in: 0..<max(2, unit / 256))), area - first)
                let operation = Self.stripeOperation(first, count, 5000 + thread * 1000 + round, &random)
                stamps.withLock { $0.append(operation) }
                try node.perform(operation)
                _ = try node.readBytes(at: 0, count: area)
            }
        }
        let all = stamps.withLock { $0 }
        session.model = try accept(node, area, all, before)
        try session.compareAll()
        try session.finish()
    }

    /// Every sector must hold what one of the writes that covered it put there.
    private func accept(
        _ node: BlockNode, _ area: Int, _ writes: [DiskOperation], _ before: ReferenceDisk
    ) throws -> ReferenceDisk {
        var model = before
        for start in stride(from: 0, to: area, by: Pattern.sectorBytes) {
            let range = start..<start + Pattern.sectorBytes
            let covering = writes.filter { $0.range?.contains(start) == true }
            let states = covering.compactMap { write -> ReferenceDisk? in
                var state = ReferenceDisk(size: before.size)
                write.part(range).map { state.apply($0) }
                return state
            }
            let found = try DiskComparison.accept(node, from: states.isEmpty ? [before] : states, in: range)
            model.adopt(found.read(range), at: start)
        }
        return model
    }
}

extension DiskOperation {
    /// What the operation does to `range`, which it covers.
    func part(_ range: Range<Int>) -> DiskOperation? {
        switch self {
        case .write(_, _, let stamp, let noise):
            .write(offset: range.lowerBound, count: range.count, stamp: stamp, noise: noise)
        case .writeZeroes: .writeZeroes(offset: range.lowerBound, count: range.count, mayUnmap: true)
        default: nil
        }
    }
}
