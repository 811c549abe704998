import BlockCore

/// The uppermost image that two chains have in common. Below it they cannot differ.
struct SharedBase {
    let old: BlockNode
    let new: BlockNode

    /// Finds the uppermost image of the old chain that the new chain contains too.
    static func find(_ old: BlockNode?, _ new: BlockNode?) throws(BlockError) -> SharedBase? {
        guard let old, let new else { return nil }
        for mine in old.chain {
            for other in new.chain where try isSame(mine, other) { return SharedBase(old: mine, new: other) }
        }
        return nil
    }

    /// Whether the chains have a file in common, even if they read it in different ways.
    static func haveFilesInCommon(_ one: BlockNode, _ other: BlockNode) -> Bool {
        !one.fileIdentities.isDisjoint(with: other.fileIdentities)
    }

    /// Whether both nodes read the same files in the same way. Walks down long chains without a deep stack.
    private static func isSame(_ one: BlockNode, _ other: BlockNode) throws(BlockError) -> Bool {
        var (one, other) = (one, other)
        while one.unfiltered !== other.unfiltered {
            (one, other) = (one.unfiltered, other.unfiltered)
            if let mine = one.storage, let theirs = other.storage {
                guard let identity = mine.identity else { return false }
                return identity == theirs.identity
            }
            guard try isSameImage(one, other) else { return false }
            guard let below = one.backing, let otherBelow = other.backing else {
                return one.backing == nil && other.backing == nil
            }
            (one, other) = (below, otherBelow)
        }
        return true
    }

    /// Whether both images are the same, apart from their backing nodes.
    private static func isSameImage(_ one: BlockNode, _ other: BlockNode) throws(BlockError) -> Bool {
        guard one.format != nil, other.format != nil, one.driverName == other.driverName,
            try haveSameFiles(one, other)
        else { return false }
        let length = try one.length()
        guard length > 0, try other.length() == length else { return false }
        // One file can be opened with different windows, and over different backing files.
        return try one.layerExtent(at: 0, limit: 1) == other.layerExtent(at: 0, limit: 1)
    }

    /// Whether the bytes of both lie in the same files: the image's own, its data file, its extents.
    private static func haveSameFiles(_ one: BlockNode, _ other: BlockNode) throws(BlockError) -> Bool {
        guard !one.children.isEmpty, one.children.count == other.children.count else { return false }
        for (mine, theirs) in zip(one.children, other.children) where try !isSame(mine, theirs) {
            return false
        }
        return true
    }
}
