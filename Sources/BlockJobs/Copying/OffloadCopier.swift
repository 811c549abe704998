import BlockCore
import Synchronization

/// Has the system copy from file to file, where both sides keep the bytes plainly. Thread-safe.
final class OffloadCopier: Sendable {
    private let source: SourceDisk
    private let target: BlockNode
    /// Set once the system could not do it: not to be asked again.
    private let gaveUp = Atomic(false)

    init(source: SourceDisk, target: BlockNode) {
        self.source = source
        self.target = target
    }

    /// Copies from the start of `range` what can be copied.
    ///
    /// - Returns: how many bytes that was; whole pages unless it is all.
    func copy(_ range: Range<Int>) throws(BlockError) -> Int {
        var done = 0
        while done < range.count, !gaveUp.load(ordering: .relaxed) {
            let copied = try copyRun(at: range.lowerBound + done, limit: range.count - done)
            guard copied > 0 else { break }
            done += copied
        }
        return done == range.count ? done : done.roundedDown(to: AlignedBuffer.alignmentBytes)
    }

    private func copyRun(at offset: Int, limit: Int) throws(BlockError) -> Int {
        let (node, range) = source.part(at: offset)
        let local = offset - range.lowerBound
        let reach = min(limit, range.upperBound - offset)
        guard Self.isRaw(target), let from = try node.plainPlace(at: local, limit: reach),
            let to = try target.plainPlace(at: offset, limit: from.count)
        else { return 0 }
        let copied = try to.storage.copyRange(
            from: from.storage, at: from.offset, to: to.offset, count: to.count)
        if copied < to.count { gaveUp.store(true, ordering: .relaxed) }
        return max(0, min(copied, to.count))
    }

    /// Only where every byte has its fixed place may somebody else than the driver write it.
    private static func isRaw(_ node: BlockNode) -> Bool { node.format?.isTransparent == true }
}
