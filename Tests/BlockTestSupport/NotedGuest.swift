import BlockCore
import Synchronization

/// A guest whose requests are noted with the events that they logged, so that what a crash may leave is known
/// at every event. Its requests depend on nothing but the seed. Thread-safe; one request at a time.
public final class NotedGuest: Sendable {
    private struct Step {
        /// The file of the node that was the top.
        var disk: String
        /// The events logged before and after it.
        var began: Int
        var ended: Int
        var after: ReferenceDisk
        var isFlush: Bool
    }

    private struct State {
        var random: SeededRandom
        var model: ReferenceDisk
        var steps: [Step] = []
        var failure: BlockError?
        var isActing = false
    }

    private let device: BlockDevice
    private let store: TestStore
    private let original: ReferenceDisk
    private let state: Mutex<State>

    public init(_ device: BlockDevice, _ store: TestStore, model: ReferenceDisk, seed: UInt64) {
        self.device = device
        self.store = store
        original = model
        state = Mutex(State(random: SeededRandom(seed: seed), model: model))
    }

    /// What the disk holds now.
    public var contents: ReferenceDisk { state.withLock { $0.model } }

    /// How many requests were made.
    public var requests: Int { state.withLock { $0.steps.count } }

    /// The first error of a request.
    public var failure: BlockError? { state.withLock { $0.failure } }

    /// Makes one request: a write, zeroes or a flush. Does nothing inside of another one.
    public func act() {
        guard begin() else { return }
        defer { state.withLock { $0.isActing = false } }
        do throws(BlockError) { try perform() } catch {
            state.withLock { $0.failure = $0.failure ?? error }
        }
    }

    /// Makes everything written so far durable.
    public func flush() {
        guard begin() else { return }
        defer { state.withLock { $0.isActing = false } }
        do throws(BlockError) {
            try note(isFlush: true) { () throws(BlockError) in try device.flush() }
        } catch {
            state.withLock { $0.failure = $0.failure ?? error }
        }
    }

    private func begin() -> Bool {
        state.withLock { state in
            if state.isActing || state.failure != nil { return false }
            state.isActing = true
            return true
        }
    }

    private func perform() throws(BlockError) {
        let (kind, number, range) = state.withLock { state in
            let size = state.model.size
            let offset = state.random.number(in: 0..<size / 512) * 512
            let count = min(size - offset, 512 * (1 + state.random.number(in: 0..<24)))
            return (state.random.number(in: 0..<8), state.steps.count, offset..<offset + count)
        }
        switch kind {
        case 0:
            try note { () throws(BlockError) in
                try device.writeZeroes(
                    at: range.lowerBound, count: range.count, flags: number % 2 == 0 ? .mayUnmap : [])
                state.withLock { $0.model.writeZeroes(range) }
            }
        case 1, 2: try note(isFlush: true) { () throws(BlockError) in try device.flush() }
        default:
            let bytes = Pattern.bytes(stamp: 50_000 + number, at: range.lowerBound, count: range.count)
            try note { () throws(BlockError) in
                try device.write(bytes.span.bytes, at: range.lowerBound)
                state.withLock { $0.model.write(bytes, at: range.lowerBound) }
            }
        }
    }

    private func note(isFlush: Bool = false, _ body: () throws(BlockError) -> Void) throws(BlockError) {
        let (disk, began) = (device.root?.filename ?? "", store.logCount)
        try body()
        let ended = store.logCount
        state.withLock { state in
            state.steps.append(
                Step(disk: disk, began: began, ended: ended, after: state.model, isFlush: isFlush))
        }
    }

    // MARK: After a crash

    /// What the disk in the file `disk` may hold when the power fails after `point` events: any mixture by
    /// sectors. Empty before the guest has used it.
    public func possibleStates(of disk: String, at point: Int) -> [ReferenceDisk] {
        let steps = state.withLock { $0.steps }
        guard let first = steps.firstIndex(where: { $0.disk == disk }) else { return [] }
        // A job makes a disk durable before the guest goes on with it.
        guard first == 0 || steps[first].began <= point else { return [] }
        let mine = steps[first...].filter { $0.disk == disk }
        let durable = mine.lastIndex { $0.isFlush && $0.ended <= point }
        let start = durable.map { mine[$0].after } ?? (first == 0 ? original : steps[first - 1].after)
        return [start] + mine[(durable.map { $0 + 1 } ?? 0)...].filter { $0.began < point }.map(\.after)
    }

    /// Compares an open disk with what a crash may have left of it.
    ///
    /// - Returns: what it holds; `nil` where nothing is promised of this disk.
    @discardableResult
    public func judge(_ node: BlockNode, of disk: String, at point: Int) throws -> ReferenceDisk? {
        let states = possibleStates(of: disk, at: point)
        return states.isEmpty ? nil : try DiskComparison.accept(node, from: states)
    }
}
