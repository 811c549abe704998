import BlockCore
import BlockFormats

extension BlockNode {
    /// Whether one of this node's own files belongs to `nodes` or their backing chains.
    func sharesFile(with nodes: [BlockNode]) -> Bool { sharesFile(with: nodes.fileIdentities) }

    fileprivate func sharesFile(with identities: Set<String>) -> Bool {
        !identities.isDisjoint(with: ownFileIdentities)
    }
}

extension [BlockNode] {
    /// The identities of all files of these nodes and their backing chains.
    var fileIdentities: Set<String> {
        reduce(into: []) { all, node in all.formUnion(node.fileIdentities) }
    }
}

extension CommandContext {
    /// Whether making the file `name` would empty a file of `nodes` or their backing chains.
    func wouldEmpty(_ name: String, readBy nodes: [BlockNode]) -> Bool {
        wouldEmpty(name, among: nodes.fileIdentities)
    }

    /// Whether making the file `name` would empty one of those files.
    func wouldEmpty(_ name: String, among identities: Set<String>) -> Bool {
        if identities.isEmpty { return false }
        let settings = OpenSettings(forceShare: true, withoutBacking: true, metadataOnly: true)
        let format = StandardFormats.defaultName
        guard let existing = try? opener.open(name, format: format, settings: settings) else { return false }
        defer { try? existing.close() }
        return existing.sharesFile(with: identities)
    }
}
