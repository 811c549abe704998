import BlockCore
import Synchronization

/// Has a target share the space of the files that a source is read from, instead of copying the bytes.
/// Thread-safe.
final class SpaceSharer: Sendable {
    private let source: SourceDisk
    private let target: BlockNode
    /// Those of the source's files with which the target's can share.
    private let partners: Set<ObjectIdentifier>
    /// Whole units of this many bytes are shared.
    private let unit: Int
    /// The file system refused: it is not asked again.
    private let gaveUp = Atomic(false)

    /// `nil` where the target takes only bytes, or lies on another file system than all of the source.
    init?(_ source: SourceDisk, _ target: BlockNode) {
        guard let storage = target.sharingStorage else { return nil }
        let files = source.nodes.flatMap(\.chain).flatMap(\.children).compactMap(\.storage)
        partners = Set(files.filter(storage.sharesSpace(with:)).map { ObjectIdentifier($0) })
        if partners.isEmpty { return nil }
        self.source = source
        self.target = target
        unit = max(target.format?.writeGranularity ?? 1, BlockNode.sharingAlignment)
    }

    /// How many bytes from `offset` on can be shared, as far as that can be told without trying; 0 for none.
    func reach(at offset: Int, limit: Int) -> Int {
        guard offset % unit == 0, let place = place(at: offset, limit: limit) else { return 0 }
        return place.count.roundedDown(to: unit)
    }

    /// How far an answer about `offset` goes where nothing can be shared there; without end after giving up.
    func bytesLeftInUnit(at offset: Int) -> Int {
        gaveUp.load(ordering: .relaxed) || offset % unit == 0 ? .max : unit - offset % unit
    }

    /// Shares from the start of `range` what can be shared.
    ///
    /// - Returns: how many bytes that was; the rest is to be copied.
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

    /// Where the source keeps the bytes at `offset`, in a file whose space the target can share.
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
    /// A look that has what `sharer` can share shared instead of copied.
    static func sharing(_ sharer: SpaceSharer?, _ look: @escaping Look) -> Look {
        guard let sharer else { return look }
        return { (offset, limit) throws(BlockError) in
            let (action, length) = try look(offset, limit)
            guard action == .copy else { return (action, length) }
            let reach = sharer.reach(at: offset, limit: length)
            // Behind a part of a unit there may be whole ones again.
            return reach > 0 ? (.share, reach) : (.copy, min(length, sharer.bytesLeftInUnit(at: offset)))
        }
    }
}
