import BlockCore
import BlockProtocols

/// Finds images of a backing chain by the names that users give.
enum ChainLookup {
    /// The node below `top` that `name` names: by a file name relative to the image's folder or to the
    /// working folder, or by the name that the chain uses.
    ///
    /// - Throws: `Did not find …` where the chain has no such node.
    static func node(named name: String, below top: BlockNode) throws(CommandFailure) -> BlockNode {
        let layers = top.chain.dropFirst()
        for candidate in [FileNames.resolve(name, relativeTo: top.filename), name] where !name.isEmpty {
            if let found = layers.first(where: { isSame($0.filename, candidate) }) { return found }
        }
        throw CommandFailure("Did not find '\(name)' in the backing chain of '\(top.filename)'")
    }

    private static func isSame(_ one: String, _ other: String) -> Bool {
        if one.isSameName(as: other) { return true }
        guard let path = HostPath.canonical(FileNames.withoutFileScheme(one)),
            let other = HostPath.canonical(FileNames.withoutFileScheme(other))
        else { return false }
        return path.isSameName(as: other)
    }
}
