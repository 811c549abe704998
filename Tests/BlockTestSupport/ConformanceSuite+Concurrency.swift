import BlockCore
import Synchronization

extension ConformanceSuite {
    private static let threads = 4

    /// Writers and readers on ranges of their own that share clusters, then on the same ranges.
    func checkConcurrency(seed: UInt64) throws {
        do {
            try checkDisjointWriters(seed: seed)
            try checkOverlappingWriters(seed: seed)
        } catch { throw failure("concurrency: \(error)", seed: seed) }
    }

    /// Thread T owns every fourth stripe; stripes are no multiples of the cluster size.
    private func checkDisjointWriters(seed: UInt64) throws {
        let session = try ImageSession.new(configuration)
        let (node, unit) = (session.node, session.abilities.unit)
        let stripe = max(512, min(unit * 3 / 2, 96 << 10) / 512 * 512 + 512)
        let stripes = configuration.virtualSize / stripe
        let rounds = TestEffort.scaled(40)
        let written = Mutex<[Int: DiskOperation]>([:])
        try WorkerThreads.run(Self.threads) { thread throws(BlockError) in
            var random = SeededRandom(seed: seed &+ UInt64(thread))
            for round in 0..<rounds where stripes >= Self.threads {
                let mine = random.number(in: 0..<stripes / Self.threads) * Self.threads + thread
                let operation = Self.stripeOperation(mine * stripe, stripe, thread * 1000 + round, &random)
                try Self.act(operation, on: node)
                written.withLock { $0[mine] = operation }
                try Self.expect(operation, on: node)
                if random.number(in: 0..<20) == 0 { try node.flush() }
            }
        }
        for operation in written.withLock({ Array($0.values) }) { session.model.apply(operation) }
        try session.compareAll()
        try session.finish()
    }

    private static func stripeOperation(
        _ offset: Int, _ count: Int, _ stamp: Int, _ random: inout SeededRandom
    ) -> DiskOperation {
        random.number(in: 0..<4) == 0
            ? .writeZeroes(offset: offset, count: count, mayUnmap: true)
            : .write(offset: offset, count: count, stamp: stamp, noise: false)
    }

    private static func act(_ operation: DiskOperation, on node: BlockNode) throws(BlockError) {
        switch operation {
        case .write(let offset, let count, let stamp, let noise):
            let bytes = Pattern.bytes(stamp: stamp, at: offset, count: count, noise: noise)
            try node.write(bytes.span.bytes, at: offset)
        case .writeZeroes(let offset, let count, _): try node.writeZeroes(at: offset, count: count)
        default: break
        }
    }

    /// A thread reads back its own bytes while others write beside them.
    private static func expect(_ operation: DiskOperation, on node: BlockNode) throws(BlockError) {
        guard let range = operation.range else { return }
        var model = ReferenceDisk(size: range.upperBound)
        model.apply(operation)
        guard try node.readBytes(at: range.lowerBound, count: range.count) == model.read(range) else {
            throw BlockError(
                .corrupt, "a thread did not read back what it had written", offset: range.lowerBound)
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
                try Self.act(operation, on: node)
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
