import BlockCore
import Synchronization

/// Lets the system copy from file to file where source and target keep plain bytes. Thread-safe.
final class OffloadCopier: Sendable {
    private let source: SourceDisk
    private let target: BlockNode
    /// Set once the system has refused; it is not asked again.
    private let gaveUp = Atomic(false)

    init(source: SourceDisk, target: BlockNode) {
        self.source = source
        self.target = target
    }

    /// Copies the part of `range`, from its start, that the system can copy.
    ///
    /// - Returns: the number of bytes copied: whole pages unless it is all of `range`.
    /// - Throws: what reading the maps, or copying, fails with.
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

    /// Whether the node's driver allows writes to its file past it: only where every guest byte has a fixed
    /// place there.
    private static func isRaw(_ node: BlockNode) -> Bool { node.format?.isTransparent == true }
}
