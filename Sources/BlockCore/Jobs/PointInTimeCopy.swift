import Synchronization
import SystemPackage

/// Keeps what a node's disk has at one moment, by copying clusters to another node before they change.
///
/// Each cluster is *pending* until the target has it. Whoever changes a byte of a pending cluster copies the
/// cluster first, so a pending cluster is in the node as it was at the moment. Clusters are locked on their
/// own:
///
/// 1. A writer has its range of the node already (``willChange(_:)``); it then takes the clusters of the
///    range.
/// 2. ``copy(_:)`` and ``read(into:at:)`` take the range of the node first and the clusters second, as the
///    writer does: the other way round, they would wait for a writer that waits for them.
/// 3. With the clusters taken, the node is read without waiting for other requests.
///
/// Thread-safe. Offsets and counts are in bytes.
public final class PointInTimeCopy: ChangeObserver {
    /// What happens when a cluster that is about to change cannot be copied.
    public enum ErrorPolicy: String, Sendable, CaseIterable {
        /// The write fails; the copy stays good.
        case breakGuestWrite = "break-guest-write"
        /// The write is done; the copy is lost.
        case breakSnapshot = "break-snapshot"
    }

    /// How clusters are copied.
    public struct Options: Sendable {
        /// Whether clusters of which the node's own layer stores nothing are left out.
        public var layerOnly = false
        /// Whether zeroes get a mark of the target's format even where the target reads as zeroes already.
        public var marksZeroes = false
        /// Whether the target stores data compressed.
        public var compress = false
        /// The result of a failed copy before a write.
        public var errorPolicy = ErrorPolicy.breakGuestWrite
        /// The longest that a write waits for its clusters to be copied, in nanoseconds; 0 for no limit.
        public var timeoutNanoseconds = 0
        /// The smallest cluster, in bytes; a power of two.
        public var minimumClusterBytes = 1
        /// The clock of the time limit.
        public var clock: any BlockClock = SystemClock()

        /// Plain copies, without a time limit.
        public init() {}
    }

    private struct State {
        var failure: BlockError?
        var onFailure: (@Sendable () -> Void)?
        /// The copies that go on after their writes have given up.
        var helpers = 0
    }

    /// The smallest cluster, in bytes.
    static let minimumClusterBytes = Int.kib(64)
    /// The largest cluster, in bytes, whatever the target's is: it is the least that a write copies.
    static let maximumClusterBytes = Int.mib(2)
    /// The most bytes that ``copy(_:)`` keeps locked at once: those of a long run of zeroes.
    private static let maximumHeldBytes = Int.mib(64)

    /// The node that is copied, without its filters.
    public let source: BlockNode
    /// The node that gets the clusters.
    public let target: BlockNode
    /// The unit of copying, in bytes; a power of two.
    public let clusterBytes: Int
    /// The size of the disk at the moment, in bytes.
    public let size: Int

    private let options: Options
    private let copier: ClusterCopier
    let clusters = RangeLock()
    let pending: DirtyBitmap
    /// The bytes that ``read(into:at:)`` may read.
    let readable: DirtyBitmap
    private let state = Monitor(State())

    /// - Parameters:
    ///   - target: a writable node that is at least as large; neither node is in the other's chain.
    ///   - scope: the bytes to keep; `nil` for all.
    /// - Throws: `invalidArgument` for a target that is too small, or when one node is in the other's chain,
    ///   and for a smallest cluster that is no power of two or above 2 MiB; `unsupported` for a source
    ///   without a format, and for a target
    ///   that cannot compress; `io`, `limit`.
    public init(
        of source: BlockNode, to target: BlockNode, scope: DirtyBitmap? = nil, options: Options = Options()
    ) throws(BlockError) {
        self.source = source.unfiltered
        self.target = target
        self.options = options
        size = try source.length()
        try Self.check(self.source, size: size, target)
        let compressor = try options.compress ? Self.compressor(of: target) : nil
        clusterBytes = try Self.clusterBytes(target, compressor, options)
        copier = ClusterCopier(
            source: self.source, target: target, clusterBytes: clusterBytes, end: size,
            layerOnly: options.layerOnly, marksZeroes: options.marksZeroes, compressor: compressor)
        pending = try DirtyBitmap(size: size, granularity: clusterBytes)
        if let scope {
            var offset = 0
            while let run = scope.nextRun(from: offset), !run.isEmpty {
                pending.set(run)
                offset = run.upperBound
            }
        } else {
            pending.set(0..<size)
        }
        readable = pending.copy()
    }

    private static func check(
        _ source: BlockNode, size: Int, _ target: BlockNode
    ) throws(BlockError) {
        guard source.format != nil else {
            throw BlockError(
                .unsupported,
                "Node '\(source.filename)' has no format; open it with driver=raw over the file",
                path: source.filename)
        }
        // A reader of the target would hold it and wait for the source; a writer of the source the other way.
        guard !target.chain.contains(where: { $0.unfiltered === source }) else {
            throw BlockError(
                .invalidArgument,
                target.unfiltered === source
                    ? "Source and target cannot be the same" : "The target reads from the source",
                path: target.filename)
        }
        guard !source.chain.contains(where: { $0.unfiltered === target.unfiltered }) else {
            throw BlockError(
                .invalidArgument, "The source reads from the target", path: target.filename)
        }
        let room = try target.length()
        guard room >= size else {
            throw BlockError(
                .invalidArgument, "The target has \(room) bytes, fewer than the source's \(size)",
                path: target.filename)
        }
    }

    private static func compressor(of target: BlockNode) throws(BlockError) -> any CompressedWriting {
        guard let driver = target.format?.asCompressedWriting else {
            throw BlockError(
                .unsupported, "Compression is not supported for this drive \(target.filename)",
                path: target.filename)
        }
        return driver
    }

    private static func clusterBytes(
        _ target: BlockNode, _ compressor: (any CompressedWriting)?, _ options: Options
    ) throws(BlockError) -> Int {
        let least = options.minimumClusterBytes
        guard least.isPowerOfTwo else {
            throw BlockError(.invalidArgument, "min-cluster-size needs to be a power of 2")
        }
        guard least <= maximumClusterBytes else {
            throw BlockError(.invalidArgument, "min-cluster-size is limited to \(maximumClusterBytes)")
        }
        let unit = min(target.unfiltered.format?.writeGranularity ?? 1, maximumClusterBytes)
        return max(minimumClusterBytes, least, unit, compressor?.compressedUnitBytes ?? 1)
    }

    // MARK: Life

    /// Begins: the moment is when no request of the node is under way.
    ///
    /// - Throws: as ``BlockNode/addObserver(_:_:)``.
    public func attach() throws(BlockError) { try source.addObserver(self) }

    /// Ends: nothing is copied any more, and no copy is under way on return.
    public func detach() {
        source.removeObserver(self)
        state.wait(until: { $0.helpers == 0 }) { _ in }
    }

    /// The error with which the copy was lost; `nil` while it is good.
    public var failure: BlockError? { state.withLock { $0.failure } }

    /// Sets the call that follows when a write has made the copy lost; on the thread of that write.
    public func onFailure(_ body: @escaping @Sendable () -> Void) { state.withLock { $0.onFailure = body } }

    /// The clusters that are not yet copied.
    public var remaining: DirtyBitmap { pending.copy() }

    /// The run of pending or other bytes at `offset`, at most `limit` bytes long.
    public func pendingRun(at offset: Int, limit: Int) -> (isPending: Bool, length: Int) {
        let (isPending, length) = pending.run(at: offset, limit: limit)
        return (isPending, length)
    }

    // MARK: Before a change

    /// Copies the pending clusters of `range`.
    ///
    /// - Throws: errors of reading and of the target, with ``ErrorPolicy/breakGuestWrite``.
    public func willChange(_ range: Range<Int>) throws(BlockError) {
        guard let range = wholeClusters(range), pending.hasMarks(in: range), failure == nil else { return }
        do throws(BlockError) {
            if options.timeoutNanoseconds > 0 {
                try copyOut(range, within: options.timeoutNanoseconds)
            } else {
                try copyOut(range)
            }
        } catch {
            if options.errorPolicy == .breakGuestWrite { throw error }
            let tell = state.withLock { state in
                state.failure = state.failure ?? error
                return state.onFailure
            }
            tell?()
        }
    }

    private func copyOut(_ range: Range<Int>) throws(BlockError) {
        let ticket = clusters.acquire(range, exclusive: true)
        defer { clusters.release(ticket) }
        try copyPending(range, nil)
    }

    /// Copies on another thread, which goes on when the time is over.
    private func copyOut(_ range: Range<Int>, within nanoseconds: Int) throws(BlockError) {
        let result = Monitor<(isKnown: Bool, failure: BlockError?)>((false, nil))
        let deadline = options.clock.now().addingReportingOverflow(nanoseconds)
        state.withLock { $0.helpers += 1 }
        let isStarted = WorkerThreads.detach { [self] in
            var failure: BlockError?
            do throws(BlockError) { try copyOut(range) } catch { failure = error }
            let outcome = failure
            result.withLock { $0 = (true, outcome) }
            result.notifyAll()
            endHelper()
        }
        guard isStarted else {
            endHelper()
            return try copyOut(range)
        }
        let end = deadline.overflow ? Int.max : deadline.partialValue
        guard options.clock.wait(on: result, until: end, { $0.isKnown }) else {
            throw .system(.timedOut, path: target.filename, offset: range.lowerBound)
        }
        if let failure = result.withLock({ $0.failure }) { throw failure }
    }

    private func endHelper() {
        state.withLock { $0.helpers -= 1 }
        state.notifyAll()
    }

    // MARK: In the background

    /// Copies the pending clusters that have a byte of `range`.
    ///
    /// - Parameter buffer: for the bytes, at least one cluster long; `nil` allocates one.
    /// - Throws: errors of reading and of the target; the error with which the copy was lost.
    public func copy(_ range: Range<Int>, buffer: AlignedBuffer? = nil) throws(BlockError) {
        guard let range = wholeClusters(range) else { return }
        var offset = range.lowerBound
        while offset < range.upperBound {
            let part = offset..<min(range.upperBound, offset + Self.maximumHeldBytes)
            if pending.hasMarks(in: part) {
                try source.holding(part, exclusive: false) { () throws(BlockError) in
                    let ticket = clusters.acquire(part, exclusive: true)
                    defer { clusters.release(ticket) }
                    try copyPending(part, buffer)
                }
            }
            offset = part.upperBound
        }
    }

    /// Copies the pending clusters of `range`, which the caller has to itself.
    private func copyPending(_ range: Range<Int>, _ buffer: AlignedBuffer?) throws(BlockError) {
        var buffer = buffer
        var offset = range.lowerBound
        while offset < range.upperBound {
            let (isPending, length) = pending.run(at: offset, limit: range.upperBound - offset)
            guard isPending else {
                offset += length
                continue
            }
            try checkIntact()
            let run = offset..<offset + length
            let space = buffer ?? copier.makeBuffer(for: run)
            buffer = space
            let count = try copier.copy(run, space)
            // After a failed write of the guest the clusters may have changed under the copy.
            try checkIntact()
            pending.clear(offset..<offset + count)
            offset += count
        }
    }

    /// - Throws: the error with which the copy was lost.
    func checkIntact() throws(BlockError) {
        if let failure { throw failure.prefixed("The copy is lost") }
    }

    /// `range` grown to whole clusters, inside the disk at the moment; `nil` when nothing is left.
    func wholeClusters(_ range: Range<Int>) -> Range<Int>? {
        let end = min(range.upperBound, size)
        let lower = max(0, range.lowerBound).roundedDown(to: clusterBytes)
        guard lower < end, !range.isEmpty else { return nil }
        return lower..<min(size, end.roundedUp(to: clusterBytes) ?? size)
    }
}
