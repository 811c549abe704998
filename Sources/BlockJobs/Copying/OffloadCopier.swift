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
        guard Self.isRaw(target), let from = try Self.place(node, at: local, limit: reach),
            let to = try Self.place(target, at: offset, limit: from.count)
        else { return 0 }
        let copied = try to.storage.copyRange(
            from: from.storage, at: from.offset, to: to.offset, count: to.count)
        if copied < to.count { gaveUp.store(true, ordering: .relaxed) }
        return max(0, min(copied, to.count))
    }

    /// Only where every byte has its fixed place may somebody else than the driver write it.
    private static func isRaw(_ node: BlockNode) -> Bool { node.format?.isTransparent == true }

    /// Where the chain keeps the bytes at `offset`, when a file keeps them plainly.
    private static func place(
        _ node: BlockNode, at offset: Int, limit: Int
    ) throws(BlockError) -> (storage: any ProtocolDriver, offset: Int, count: Int)? {
        var layer = node
        var limit = limit
        while true {
            let extent = try layer.layerExtent(at: offset, limit: limit)
            limit = extent.length
            switch extent.status {
            case .data(let hostOffset):
                let readable = try layer.readableCount(of: extent)
                guard readable > 0, let storage = layer.children[extent.child].storage else { return nil }
                return (storage, hostOffset, min(limit, readable))
            case .unallocated:
                guard let next = layer.backing else { return nil }
                let length = try next.length()
                guard offset < length else { return nil }
                limit = min(limit, length - offset)
                layer = next
            case .zero, .encoded: return nil
            }
        }
    }
}
