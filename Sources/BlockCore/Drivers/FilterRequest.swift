import Synchronization

/// What a filter's `open` gets to work with.
public struct FilterRequest: Sendable {
    /// How the caller wants it opened.
    public let settings: OpenSettings
    private let opener: ImageOpener
    private let path: OpenPath
    /// What the filter calls the node below.
    private let role: String
    /// The name of what lies below; empty where `options` say it.
    private let name: String
    /// The options below `role.`.
    private let options: OptionTree
    private let opened = OpenedChild()

    init(
        _ opener: ImageOpener, role: String, name: String, options: OptionTree, settings: OpenSettings,
        path: OpenPath
    ) {
        self.opener = opener
        self.role = role
        self.name = name
        self.options = options
        self.settings = settings
        self.path = path
    }

    /// Opens the node below: a file, a format with its backing chain where the options name one, or another
    /// filter.
    ///
    /// - Parameter own: other settings than ``settings``, such as with claims.
    /// - Throws: `invalidArgument` when nothing says what lies below; what opening throws.
    public func openChild(_ own: OpenSettings? = nil) throws(BlockError) -> BlockNode {
        guard !name.isEmpty || !options.isEmpty else {
            throw BlockError(.invalidArgument, "A block device must be specified for \"\(role)\"")
        }
        let node = try opener.openBelow(
            name.isEmpty ? nil : name, options: options, settings: own ?? settings, path: path)
        opened.node.withLock { $0 = node }
        if node.isReadOnly && !settings.readOnly {
            throw BlockError(.readOnly, "Block node is read-only", path: node.filename)
        }
        return node
    }

    /// The bytes of a small file that the options name, such as one with rules.
    ///
    /// - Parameter maximumBytes: what is behind that many bytes is left out.
    /// - Throws: what opening and reading the file throw.
    public func readFile(_ name: String, maximumBytes: Int) throws(BlockError) -> [UInt8] {
        guard let entry = opener.registry.protocolEntry(named: "file") else {
            throw BlockError(.unsupported, "Unknown protocol 'file'", path: name)
        }
        var none = OptionTree()
        let file = BlockNode(
            .storage(try entry.open(name, &none, OpenSettings(forceShare: true))), filename: name)
        defer { try? file.close() }
        return try file.readBytes(at: 0, count: max(0, min(file.length(), maximumBytes)))
    }

    /// Closes what was opened.
    func closeOpened() { try? opened.node.withLock { $0 }?.close() }
}

/// The node that a filter had opened. Thread-safe.
private final class OpenedChild: Sendable {
    let node = Mutex<BlockNode?>(nil)
}
