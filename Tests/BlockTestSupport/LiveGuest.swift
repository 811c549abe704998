import BlockCore
import Synchronization

/// A guest that writes while a job runs: several threads, each with stripes of its own, so that what the disk
/// must hold is known at every end. Thread-safe.
public final class LiveGuest: Sendable {
    private static let threads = 3
    private let stripeBytes: Int
    private let device: BlockDevice
    private let model: Mutex<ReferenceDisk>
    private let state = Monitor((rounds: 0, isStopping: false))
    private let failures = Mutex<[BlockError]>([])
    private let workers = Mutex<[TestThread]>([])
    private let discards: Bool

    /// - Parameters:
    ///   - stripeBytes: a multiple of 512, best not of the cluster size.
    ///   - discards: whether the guest discards too: what it reads then is not known, so it writes again.
    public init(
        _ device: BlockDevice, model: ReferenceDisk, stripeBytes: Int = (132 << 10) + 512,
        discards: Bool = true
    ) {
        self.device = device
        self.model = Mutex(model)
        self.stripeBytes = stripeBytes
        self.discards = discards
    }

    /// What the disk holds, once the guest has ended.
    public var contents: ReferenceDisk { model.withLock { $0 } }

    /// Begins to write, until ``finish()``.
    public func start(seed: UInt64) {
        let size = model.withLock { $0.size }
        workers.withLock { workers in
            workers = (0..<Self.threads).map { thread in
                TestThread { [self] in
                    var random = SeededRandom(seed: seed &+ UInt64(thread) &* 7919)
                    run(thread, size / stripeBytes, &random)
                }
            }
        }
    }

    /// Waits until the guest has written that many times more.
    public func waitForRounds(_ count: Int) {
        let start = state.withLock { $0.rounds }
        state.wait(until: { $0.rounds >= start + count || $0.isStopping }) { _ in }
    }

    /// Ends the guest and answers its errors.
    public func finish() -> [BlockError] {
        state.withLock { $0.isStopping = true }
        state.notifyAll()
        workers.withLock { $0 }.forEach { $0.wait() }
        return failures.withLock { $0 }
    }

    private func run(_ thread: Int, _ stripes: Int, _ random: inout SeededRandom) {
        var stamp = thread * 100_000
        while !state.withLock({ $0.isStopping }) {
            let mine = random.number(in: 0..<max(1, stripes / Self.threads)) * Self.threads + thread
            guard mine < stripes else { continue }
            stamp += 1
            do throws(BlockError) { try act(mine * stripeBytes, stamp, &random) } catch {
                failures.withLock { $0.append(error) }
                state.withLock { $0.isStopping = true }
            }
            state.withLock { $0.rounds += 1 }
            state.notifyAll()
        }
    }

    private func act(_ start: Int, _ stamp: Int, _ random: inout SeededRandom) throws(BlockError) {
        let lower = random.number(in: 0..<stripeBytes / 512) * 512
        // Mostly parts of units, sometimes whole ones.
        let most =
            random.number(in: 0..<2) == 0 ? min(12, (stripeBytes - lower) / 512) : (stripeBytes - lower) / 512
        let count = (1 + random.number(in: 0..<most)) * 512
        let offset = start + lower
        switch random.number(in: 0..<8) {
        case 0:
            try device.writeZeroes(at: offset, count: count, flags: stamp % 2 == 0 ? .mayUnmap : [])
            model.withLock { $0.writeZeroes(offset..<offset + count) }
        case 1 where discards:
            try device.discard(at: offset, count: count)
            try write(offset, count, stamp)
        case 2: try device.flush()
        default: try write(offset, count, stamp)
        }
        let expected = model.withLock { $0.read(offset..<offset + count) }
        guard try device.readBytes(at: offset, count: count) == expected else {
            throw BlockError(.corrupt, "a thread did not read back what it had written", offset: offset)
        }
    }

    private func write(_ offset: Int, _ count: Int, _ stamp: Int) throws(BlockError) {
        let bytes = Pattern.bytes(stamp: stamp, at: offset, count: count)
        try device.write(bytes.span.bytes, at: offset)
        model.withLock { $0.write(bytes, at: offset) }
    }
}
