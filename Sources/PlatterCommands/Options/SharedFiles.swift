import BlockCore
import BlockFormats
import BlockProtocols
import Synchronization

extension BlockNode {
    /// Whether a file of this node itself is one from which `nodes` or their backing files are read.
    func sharesFile(with nodes: [BlockNode]) -> Bool { sharesFile(with: nodes.fileIdentities) }

    fileprivate func sharesFile(with identities: Set<String>) -> Bool {
        !identities.isDisjoint(with: ownFileIdentities)
    }
}

extension [BlockNode] {
    /// The files from which these nodes and their backing files are read.
    var fileIdentities: Set<String> {
        reduce(into: []) { all, node in all.formUnion(node.fileIdentities) }
    }
}

extension CommandContext {
    /// Whether making the file `name` would empty one from which `nodes` or their backing files are read.
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

/// The files that making an image has made so far, to be removed if it comes to nothing. Thread-safe.
final class MadeFiles: Sendable {
    private let files = Mutex<[(path: String, wasThere: Bool, isMade: Bool)]>([])

    /// To be called before a file is made.
    func willMake(_ name: String, _ registry: DriverRegistry) {
        guard let path = HostFile.path(of: name, registry) else { return }
        let wasThere = HostFile.exists(path)
        files.withLock { $0.append((path, wasThere, false)) }
    }

    /// To be called once it is there.
    func didMake(_ name: String, _ registry: DriverRegistry) {
        guard let path = HostFile.path(of: name, registry) else { return }
        files.withLock { files in
            for index in files.indices where files[index].path == path { files[index].isMade = true }
        }
    }

    /// Removes them. A file that could not even be emptied stays: it may be somebody's image.
    func removeAll() {
        for file in files.withLock({ $0 }) where file.isMade || !file.wasThere { HostFile.remove(file.path) }
    }
}
