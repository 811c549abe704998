import Synchronization

/// The arguments of a filter's `open`, with the calls that open the node below.
public struct FilterRequest: Sendable {
    /// The caller's settings.
    public let settings: OpenSettings
    private let opener: ImageOpener
    private let path: OpenPath
    /// The filter's role for the node below.
    private let role: String
    /// The name of the node below; empty when `options` name it.
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

    /// Opens the node below: a file, a format with its backing chain, if the options name one, or another
    /// filter.
    ///
    /// - Parameter own: settings to use instead of ``settings``, for example with claims.
    /// - Throws: `invalidArgument` without a name and options for the node below; as
    ///   ``ImageOpener/open(_:format:settings:options:)``.
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

    /// The throttle group of that name.
    ///
    /// - Throws: `notFound`.
    public func throttleGroup(_ name: String) throws(BlockError) -> ThrottleGroup {
        try opener.throttleGroups.group(name)
    }

    /// The bytes of a small file that the options name, such as one with rules.
    ///
    /// - Parameter maximumBytes: the most bytes to read; the rest of the file is left out.
    /// - Throws: `notFound`, `unsupported`, `invalidArgument`, `busy`, `io`.
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

    /// Closes the node below, if it was opened.
    func closeOpened() { try? opened.node.withLock { $0 }?.close() }
}

/// The node below, once a filter opened it. Thread-safe.
private final class OpenedChild: Sendable {
    let node = Mutex<BlockNode?>(nil)
}
