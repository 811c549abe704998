import BlockCore
import Synchronization

/// Makes a target share the space of a source's files instead of copying the bytes. Thread-safe.
final class SpaceSharer: Sendable {
    private let source: SourceDisk
    private let target: BlockNode
    /// The source's files with which the target's file can share space.
    private let partners: Set<ObjectIdentifier>
    /// The unit of sharing, in bytes.
    private let unit: Int
    /// Set once the file system has refused; it is not asked again.
    private let gaveUp = Atomic(false)

    /// Answers `nil` where the target cannot share space, or lies on another file system than all files of
    /// the source.
    init?(_ source: SourceDisk, _ target: BlockNode) {
        guard let storage = target.sharingStorage else { return nil }
        let files = source.nodes.flatMap(\.chain).flatMap(\.children).compactMap(\.storage)
        partners = Set(files.filter(storage.sharesSpace(with:)).map { ObjectIdentifier($0) })
        if partners.isEmpty { return nil }
        self.source = source
        self.target = target
        unit = max(target.format?.writeGranularity ?? 1, BlockNode.sharingAlignment)
    }

    /// The number of bytes from `offset` on that can be shared, as far as the maps tell; 0 for none.
    func reach(at offset: Int, limit: Int) -> Int {
        guard offset % unit == 0, let place = place(at: offset, limit: limit) else { return 0 }
        return place.count.roundedDown(to: unit)
    }

    /// The number of bytes from `offset` on for which the answer that nothing can be shared holds: to the end
    /// of a partial unit, or without limit.
    func bytesLeftInUnit(at offset: Int) -> Int {
        gaveUp.load(ordering: .relaxed) || offset % unit == 0 ? .max : unit - offset % unit
    }

    /// Shares the part of `range`, from its start, that can be shared.
    ///
    /// - Returns: the number of bytes shared; the rest has to be copied.
    /// - Throws: what the target throws.
    func share(_ range: Range<Int>) throws(BlockError) -> Int {
        var offset = range.lowerBound
        while offset < range.upperBound {
            guard let place = place(at: offset, limit: range.upperBound - offset) else { break }
            let count = place.count.roundedDown(to: unit)
            guard count > 0, offset % unit == 0 else { break }
            let shared = try target.share(place, at: offset, count: count)
            offset += shared
            if shared < count {
                gaveUp.store(true, ordering: .relaxed)
                break
            }
        }
        return offset - range.lowerBound
    }

    /// The place of the bytes at `offset` in a file whose space the target can share.
    private func place(at offset: Int, limit: Int) -> PlainPlace? {
        if gaveUp.load(ordering: .relaxed) { return nil }
        let (node, range) = source.part(at: offset)
        let reach = min(limit, range.upperBound - offset)
        guard let place = try? node.plainPlace(at: offset - range.lowerBound, limit: reach),
            place.offset % BlockNode.sharingAlignment == 0,
            partners.contains(ObjectIdentifier(place.storage))
        else { return nil }
        return place
    }
}

extension RunCursor {
    /// The same look-up, but for runs to copy that `sharer` can share.
    static func sharing(_ sharer: SpaceSharer?, _ look: @escaping Look) -> Look {
        guard let sharer else { return look }
        return { (offset, limit) throws(BlockError) in
            let (action, length) = try look(offset, limit)
            guard action == .copy else { return (action, length) }
            let reach = sharer.reach(at: offset, limit: length)
            // Behind a partial unit there may be whole ones again.
            return reach > 0 ? (.share, reach) : (.copy, min(length, sharer.bytesLeftInUnit(at: offset)))
        }
    }
}
