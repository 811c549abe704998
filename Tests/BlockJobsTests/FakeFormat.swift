import BlockCore
import BlockProtocols
import Synchronization

/// A format for tests: clusters that are unallocated, zero, plain or compressed, in memory.
///
/// It is as lazy as a format may be: zeroes that the chain of now gives anyway are not stored.
final class FakeDriver: FormatDriver {
    static let name = "fake"

    enum Cluster: Equatable {
        case unallocated
        case zero
        case data(host: Int)
        case compressed([UInt8])
    }

    /// What a run of this test did, in order.
    enum Event: Equatable {
        case write(Int, Int)
        case zero(Int, Int)
        case compressed(Int)
        case flush
        case changeBacking(BackingReference?)
        case makeEmpty
        case resize(Int)
    }

    struct State {
        var clusters: [Cluster]
        var size: Int
        var hostEnd = 0
        var backing: BackingReference?
        var events: [Event] = []
        var failWritesAfter: Int?
        /// What is left of the request whose first part was granted last.
        var rest: Range<Int>?
        /// When the last write, flush and emptying were, counted over all drivers.
        var wroteAt = 0
        var flushedAt = 0
        var emptiedAt = 0
    }

    private static let clock = Atomic(0)
    private static func tick() -> Int { clock.wrappingAdd(1, ordering: .relaxed).newValue }

    let clusterBytes: Int
    let hasZeroClusters: Bool
    let state: Mutex<State>
    let file: BlockNode

    init(size: Int, clusterBytes: Int, hasZeroClusters: Bool = true, file: BlockNode) {
        self.clusterBytes = clusterBytes
        self.hasZeroClusters = hasZeroClusters
        self.file = file
        let count = (size + clusterBytes - 1) / clusterBytes
        state = Mutex(State(clusters: Array(repeating: .unallocated, count: count), size: size))
    }

    static func probe(_ header: RawSpan, filename: String) -> Int { 0 }
    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> FakeDriver {
        throw BlockError(.unsupported, "for tests only")
    }

    var virtualSize: Int { state.withLock { $0.size } }
    var backing: BackingReference? { state.withLock { $0.backing } }
    var writeGranularity: Int { clusterBytes }
    var events: [Event] { state.withLock { $0.events } }
    func clearEvents() { state.withLock { $0.events = [] } }

    private func endOfCluster(_ index: Int) -> Int { min((index + 1) * clusterBytes, virtualSize) }

    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let (first, same) = state.withLock { state -> (Cluster, Int) in
            let index = offset / clusterBytes
            let first = state.clusters[index]
            var end = index + 1
            while end < state.clusters.count, end * clusterBytes < offset + limit {
                guard first == .unallocated || first == .zero, state.clusters[end] == first else { break }
                end += 1
            }
            return (first, end)
        }
        let length = min(limit, endOfCluster(same - 1) - offset)
        switch first {
        case .unallocated: return Extent(.unallocated, length: length)
        case .zero: return Extent(.zero(hostOffset: nil), length: length)
        case .data(let host): return Extent(.data(hostOffset: host + offset % clusterBytes), length: length)
        case .compressed: return Extent(.encoded(compressed: true), length: length)
        }
    }

    func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let cluster = state.withLock { $0.clusters[offset / clusterBytes] }
        guard case .compressed(let payload) = cluster else { throw BlockError(.corrupt, "not compressed") }
        let whole = payload + [UInt8](repeating: 0, count: clusterBytes - payload.count)
        let start = offset % clusterBytes
        buffer.copy(from: whole.span.bytes.extracting(start..<start + buffer.byteCount))
    }

    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        // The parts of a request after its first are no requests of their own.
        if state.withLock({ $0.rest != guest }) {
            try countWrite()
            state.withLock { $0.events.append(.write(guest.lowerBound, guest.count)) }
        }
        let index = guest.lowerBound / clusterBytes
        let unit = index * clusterBytes..<(index + 1) * clusterBytes
        let part = guest.clamped(to: unit)
        return state.withLock { state in
            state.rest = part.upperBound..<guest.upperBound
            if case .data(let host) = state.clusters[index] {
                let place = host + part.lowerBound - unit.lowerBound
                return WriteGrant(inPlace: part, at: place, in: file)
            }
            state.hostEnd += clusterBytes
            return WriteGrant(
                new: part, units: unit, at: state.hostEnd - clusterBytes, in: file, rest: .old)
        }
    }

    func link(_ grant: WriteGrant) throws(BlockError) {
        guard grant.isNew else { return }
        let index = grant.units.lowerBound / clusterBytes
        state.withLock { $0.clusters[index] = .data(host: grant.hostOffset) }
    }

    private func countWrite() throws(BlockError) {
        let fails = state.withLock { state -> Bool in
            state.wroteAt = Self.tick()
            guard let left = state.failWritesAfter else { return false }
            state.failWritesAfter = left - 1
            return left <= 0
        }
        if fails { throw BlockError(.noSpace, "No space left on device") }
    }

    func flush() throws(BlockError) {
        state.withLock { state in
            state.flushedAt = Self.tick()
            state.events.append(.flush)
        }
    }
    func close() throws(BlockError) {}
    func describe() throws(BlockError) -> FormatInfo { FormatInfo(clusterSizeBytes: clusterBytes) }
}

extension FakeDriver: Clearing {
    var zeroGranularity: Int { clusterBytes }
    var discardGranularity: Int { clusterBytes }
    func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        if mode == .discard { return ClearStep(.done, length: range.count) }
        guard hasZeroClusters else { return ClearStep(.store, length: range.count) }
        try countWrite()
        state.withLock { $0.events.append(.zero(range.lowerBound, range.count)) }
        let first = range.lowerBound / clusterBytes
        for index in first..<(range.upperBound + clusterBytes - 1) / clusterBytes {
            let needed = index * clusterBytes < backingEnd
            state.withLock { state in
                if state.clusters[index] != .unallocated || needed { state.clusters[index] = .zero }
            }
        }
        return ClearStep(.done, length: range.count)
    }
}

extension FakeDriver: CompressedWriting {
    var compressedUnitBytes: Int { clusterBytes }
    /// Leaves out the zeroes at the end; that has to save half.
    func compress(_ unit: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        var count = unit.byteCount
        while count > 0, unit.unsafeLoad(fromByteOffset: count - 1, as: UInt8.self) == 0 { count -= 1 }
        guard count <= clusterBytes / 2 else { return nil }
        output.copy(from: unit.extracting(0..<count))
        return count
    }
    func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError) {
        try countWrite()
        let bytes = payload.array
        state.withLock { state in
            state.events.append(.compressed(offset))
            state.clusters[offset / clusterBytes] = .compressed(bytes)
        }
    }
}

extension FakeDriver: Rebasable {
    func changeBacking(to backing: BackingReference?) throws(BlockError) {
        state.withLock { state in
            state.backing = backing
            state.events.append(.changeBacking(backing))
        }
    }
}

extension FakeDriver: Emptying {
    func makeEmpty() throws(BlockError) {
        state.withLock { state in
            state.emptiedAt = Self.tick()
            state.events.append(.makeEmpty)
            state.clusters = state.clusters.map { _ in .unallocated }
        }
    }
}

extension FakeDriver: Resizable {
    func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        state.withLock { state in
            state.events.append(.resize(virtualSize))
            state.size = virtualSize
            let count = (virtualSize + clusterBytes - 1) / clusterBytes
            while state.clusters.count < count { state.clusters.append(.unallocated) }
        }
    }
}
