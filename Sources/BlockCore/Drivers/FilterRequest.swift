import Synchronization

/// The arguments of a filter's `open`, with the calls that open the nodes below.
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
    private let opened = OpenedNodes()

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

    /// Whether the options or a name state the node below.
    public var namesChild: Bool { !name.isEmpty || !options.isEmpty }

    /// Opens the node below: a file, a format with its backing chain, if the options name one, or another
    /// filter.
    ///
    /// - Parameters:
    ///   - own: settings to use instead of ``settings``, for example with claims.
    ///   - probing: whether the node is an image whose format is probed, unless the options name a driver;
    ///     otherwise a node without a driver is a file.
    /// - Throws: `invalidArgument` without a name and options for the node below; as
    ///   ``ImageOpener/open(_:format:settings:options:)``.
    public func openChild(
        _ own: OpenSettings? = nil, probing: Bool = false
    ) throws(BlockError) -> BlockNode {
        try open(name, options, own ?? settings, role: role, probing: probing)
    }

    /// Opens a further node below, by the options below `role.`, which it takes.
    ///
    /// The filter lists it in ``FilterDriver/children``.
    ///
    /// - Parameters:
    ///   - name: the name of its file, if a name or an option of the filter states it.
    ///   - own: as for ``openChild(_:probing:)``.
    ///   - probing: as for ``openChild(_:probing:)``.
    /// - Throws: `corrupt` for an image that led to this filter; as ``openChild(_:probing:)``.
    public func openChild(
        role: String, name: String? = nil, _ own: OpenSettings? = nil, probing: Bool = false,
        options: inout OptionTree
    ) throws(BlockError) -> BlockNode {
        let below = options.takeSubtree(role)
        if let reference = options.take(role) { throw ImageOpener.noNode(reference) }
        var settings = own ?? settings
        // Only the first node below can be one whose locks the format above takes.
        settings.declaresUseLater = false
        let node = try open(name ?? "", below, settings, role: role, probing: probing)
        try path.check(node)
        return node
    }

    private func open(
        _ name: String, _ options: OptionTree, _ own: OpenSettings, role: String, probing: Bool
    ) throws(BlockError) -> BlockNode {
        guard !name.isEmpty || !options.isEmpty else {
            throw BlockError(.invalidArgument, "A block device must be specified for \"\(role)\"")
        }
        let name = name.isEmpty ? nil : name
        let node: BlockNode
        if probing {
            var own = own
            own.declaresUseLater = false
            node = try opener.open(
                name, format: nil, settings: own, options: options, path: path.nested(in: name))
        } else {
            node = try opener.openBelow(name, options: options, settings: own, path: path)
        }
        opened.nodes.withLock { $0.append(node) }
        if node.isReadOnly && !own.readOnly {
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

    /// Closes the nodes below that were opened.
    func closeOpened() { for node in opened.nodes.withLock({ $0 }) { try? node.close() } }
}

/// The nodes below that a filter opened. Thread-safe.
private final class OpenedNodes: Sendable {
    let nodes = Mutex<[BlockNode]>([])
}
