import Synchronization

/// The names that users gave to open nodes (`node-name`): each belongs to one node at a time. Thread-safe.
final class NodeNames: Sendable {
    private let taken = Mutex<Set<String>>([])

    /// Reserves `name` until the result is freed.
    ///
    /// - Throws: `invalidArgument` for the name of another node.
    func take(_ name: String) throws(BlockError) -> NodeName {
        guard taken.withLock({ $0.insert(name).inserted }) else {
            throw BlockError(.invalidArgument, "Duplicate nodes with node-name='\(name)'")
        }
        return NodeName(name, of: self)
    }

    fileprivate func giveBack(_ name: String) { taken.withLock { _ = $0.remove(name) } }
}

/// A node's name. Freeing this value frees the name.
final class NodeName: Sendable {
    let text: String
    private let names: NodeNames

    fileprivate init(_ text: String, of names: NodeNames) {
        self.text = text
        self.names = names
    }

    deinit { names.giveBack(text) }
}
