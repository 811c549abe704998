import BlockCore

/// Copies a disk to another node while the guest writes to it, follows the guest's writes, and at completion
/// makes the device go on with the copy.
///
/// Once ready, the target is as the source but for writes under way. When completed, it is the source's disk
/// at that moment, durable; the device then reads and writes there. Cancelled or failed, the source is as it
/// was.
///
/// ```swift
/// let job = try engine.start(MirrorJob(source: disk, target: copy, device: device))
/// // ... once job.status == .ready
/// try job.complete()
/// try job.wait()  // device.root === copy
/// ```
public struct MirrorJob: BlockJob {
    /// The job's name, in lists and in messages about a node in use.
    public static let name = "mirror"
    public static let waitsForCompletion = true

    /// What is copied at the start.
    public enum Sync: Sendable {
        /// All of the disk.
        case full
        /// What the source's own layer stores; the target has the same backing file.
        case top
        /// Nothing: only what is written from now on.
        case none
    }

    /// When the guest's writes reach the target.
    public enum CopyMode: String, Sendable {
        /// Later, from a dirty bitmap: writes are as fast as before, but may come faster than they are
        /// copied.
        case background
        /// Before the write returns: the job becomes ready however fast the guest writes.
        case writeBlocking = "write-blocking"
    }

    private let source: BlockNode
    private let target: BlockNode
    private let sync: Sync
    private let copyMode: CopyMode
    private let granularity: Int?
    private let device: BlockDevice?

    /// - Parameters:
    ///   - source: the guest's node; the top of `device`, if there is one.
    ///   - target: a writable node, at least as large; neither a layer of the source nor over one.
    ///   - granularity: the unit of the dirty bitmap in bytes, a power of two; `nil` for the larger of 64 KiB
    ///     and the target's unit.
    ///   - device: whose top becomes the target at completion; the job then closes the source. `nil` leaves
    ///     the guest with the source.
    public init(
        source: BlockNode, target: BlockNode, sync: Sync = .full, copyMode: CopyMode = .background,
        granularity: Int? = nil, device: BlockDevice? = nil
    ) {
        self.source = source
        self.target = target
        self.sync = sync
        self.copyMode = copyMode
        self.granularity = granularity
        self.device = device
    }

    public var nodes: [BlockNode] { [source, target] }

    /// - Throws: `invalidArgument` for a target that is too small, a granularity that is no power of two, or
    ///   a source that is not the device's top; `readOnly`; `limit`; `cancelled`; what reading and writing
    ///   fail with.
    public func work(_ control: JobControl) throws(BlockError) {
        let engine = MirrorEngine(
            source: source, target: target, blocksWrites: copyMode == .writeBlocking,
            marksZeroes: sync != .full, device: device)
        try engine.run(control, granularity: try granularityBytes()) { () throws(BlockError) in
            try check()
        } mark: { (tracker) throws(BlockError) in
            try mark(tracker)
        } atEnd: { () throws(BlockError) in
            try device?.replaceRoot(source, with: target)
        }
        // All is in the target: an error of the source, such as a failing disk's, is not the job's any more.
        if device != nil { try? source.close() }
    }

    private func check() throws(BlockError) {
        if target.isReadOnly {
            throw BlockError(.readOnly, "Block node is read-only", path: target.filename)
        }
        guard try target.length() >= source.length() else {
            throw BlockError(
                .invalidArgument, "The target is smaller than the source", path: target.filename)
        }
        let layers = source.chain.map(\.unfiltered)
        let sharesFiles = !target.ownFileIdentities.isDisjoint(with: source.fileIdentities)
        guard !sharesFiles,
            !target.chain.contains(where: { layer in layers.contains { $0 === layer.unfiltered } })
        else {
            throw BlockError(
                .invalidArgument, "The target is part of the source", path: target.filename)
        }
        if let device, device.root !== source {
            throw BlockError(
                .invalidArgument, "Node '\(source.filename)' is not the top of device '\(device.name)'",
                path: source.filename)
        }
    }

    private func granularityBytes() throws(BlockError) -> Int {
        let granularity =
            granularity ?? max(.kib(64), target.unfiltered.format?.writeGranularity ?? 1)
        guard granularity >= 512, granularity <= .mib(64), granularity.isPowerOfTwo else {
            throw BlockError(
                .invalidArgument, "The granularity must be a power of 2 from 512 bytes to 64 MiB")
        }
        return granularity
    }

    private func mark(_ tracker: MirrorTracker) throws(BlockError) {
        let length = try source.length()
        switch sync {
        case .none: return
        case .full: if length > 0 { tracker.mark(0..<length) }
        case .top:
            var offset = 0
            while offset < length {
                let own = try source.layerExtent(at: offset, limit: length - offset)
                let run = offset..<offset + own.length
                if own.status != .unallocated { tracker.mark(run) }
                offset = run.upperBound
            }
        }
    }
}
