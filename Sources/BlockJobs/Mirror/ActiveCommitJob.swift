import BlockCore

/// Commits the layers above a base into the base while the guest writes, and at completion makes the device
/// go on with the base.
///
/// The layers above keep their files, which at completion read as the base does; later writes go to the base.
/// When the process is killed at any moment, the top image reads as before.
public struct ActiveCommitJob: BlockJob {
    /// The job's name, in lists and in messages about a node in use.
    public static let name = "commit"
    public static let waitsForCompletion = true

    private let top: BlockNode
    private let base: BlockNode?
    private let device: BlockDevice

    /// - Parameters:
    ///   - top: the top of `device`.
    ///   - base: a node below it; `nil` for the next one.
    public init(top: BlockNode, base: BlockNode? = nil, device: BlockDevice) {
        self.top = top
        self.base = base
        self.device = device
    }

    /// The layers from the top to the base.
    public var nodes: [BlockNode] {
        let base = base ?? top.backing
        return top.chain.prefix { $0 !== base } + [base].compactMap(\.self)
    }

    /// - Throws: `notFound` without a backing file; `invalidArgument` when `base` is not below the top, or
    ///   the top not the device's; `cancelled`; what reading and writing fail with.
    public func work(_ control: JobControl) throws(BlockError) {
        let commit = CommitJob(top: top, base: base, emptiesTop: false)
        let base = try commit.checkedBase()
        guard device.root === top else {
            throw BlockError(
                .invalidArgument, "Node '\(top.filename)' is not the top of device '\(device.name)'",
                path: top.filename)
        }
        let wasReadOnly = base.isReadOnly
        if wasReadOnly { try base.reopen(readOnly: false) }
        do throws(BlockError) {
            try commit.keepIdentities(base)
            try copy(commit, to: base, control)
        } catch {
            if wasReadOnly, device.root !== base { try? base.reopen(readOnly: true) }
            throw error
        }
        closeLayers(above: base)
    }

    private func copy(_ commit: CommitJob, to base: BlockNode, _ control: JobControl) throws(BlockError) {
        let engine = MirrorEngine(
            source: top, target: base, blocksWrites: false, marksZeroes: true, device: device)
        let granularity = max(.kib(64), base.unfiltered.format?.writeGranularity ?? 1)
        try engine.run(control, granularity: granularity) { () throws(BlockError) in
            guard try base.length() < top.length() else { return }
            try LayerCopy.keepingIdentity(of: top) { () throws(BlockError) in
                try commit.grow(base, to: try top.length())
            }
        } mark: { (tracker) throws(BlockError) in
            try mark(tracker, above: base)
        } atEnd: { () throws(BlockError) in
            // The guest's next write makes the layers above unlike what they refer to. First, since nothing
            // may fail once the guest writes to the base.
            try base.unfiltered.format?.asContentIdentifying?.renewIdentity()
            try device.replaceRoot(top, with: base)
        }
    }

    private func mark(_ tracker: MirrorTracker, above base: BlockNode) throws(BlockError) {
        let length = try top.length()
        var offset = 0
        while offset < length {
            let here = try top.status(at: offset, limit: length - offset, above: base)
            if here.isPresent { tracker.mark(offset..<offset + here.length) }
            offset += here.length
        }
    }

    /// Closes the layers from the top down to the base, which the device goes on with. Their errors are not
    /// the job's: all is in the base.
    private func closeLayers(above base: BlockNode) {
        let lowest = top.chain.last { $0.backing === base }
        lowest?.backing = nil
        try? top.close()
    }
}
