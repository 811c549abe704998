import BlockCore
import BlockFormats

extension BlockNode {
    /// Whether a file of this node itself is one from which `nodes` or their backing files are read.
    func sharesFile(with nodes: [BlockNode]) -> Bool {
        let own = children.compactMap { $0.storage?.identity }
        let theirs = nodes.flatMap(\.chain).flatMap(\.children).compactMap { $0.storage?.identity }
        return !Set(own).isDisjoint(with: theirs)
    }
}

extension CommandContext {
    /// Whether making the file `name` would empty one from which `nodes` or their backing files are read.
    func wouldEmpty(_ name: String, readBy nodes: [BlockNode]) -> Bool {
        let settings = OpenSettings(forceShare: true, withoutBacking: true, metadataOnly: true)
        let format = StandardFormats.defaultName
        guard let existing = try? opener.open(name, format: format, settings: settings) else { return false }
        defer { try? existing.close() }
        return existing.sharesFile(with: nodes)
    }
}
