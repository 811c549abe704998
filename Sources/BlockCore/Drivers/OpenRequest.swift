import Synchronization

/// The arguments of a format's `open`, with the calls that open further files.
public struct OpenRequest: Sendable {
    /// The node that holds the image's bytes.
    public let file: BlockNode
    /// The caller's settings.
    public let settings: OpenSettings
    /// Whether the format was found by probing rather than named by the caller.
    public let wasProbed: Bool
    /// Whether the caller names a backing file, instead of the one in the image.
    public let namesBacking: Bool
    private let opener: ImageOpener
    private let path: OpenPath
    private let opened = OpenedChildren()

    init(
        file: BlockNode, settings: OpenSettings, wasProbed: Bool, namesBacking: Bool = false,
        opener: ImageOpener, path: OpenPath = OpenPath()
    ) {
        // Options that an image states may name no other files than the image itself may.
        self.path = path.confinement?.isOfOptions == true ? path : path.unconfined
        self.namesBacking = namesBacking
        self.file = file
        self.settings = settings
        self.wasProbed = wasProbed
        self.opener = opener
    }

    /// The same request for reading the image's tables again: read-only, without further files so far.
    var rereading: OpenRequest {
        var settings = settings
        settings.readOnly = true
        return OpenRequest(
            file: file, settings: settings, wasProbed: wasProbed, namesBacking: namesBacking, opener: opener,
            path: path)
    }

    /// All drivers, for formats that probe.
    public var registry: DriverRegistry { opener.registry }
    /// The secrets that options such as `key-secret` name.
    public var secrets: SecretSource { opener.secrets }

    /// Reports a fault of an image that can still be opened.
    public func warn(_ text: String) { opener.warn?("\(file.filename): \(text)") }

    /// A UUID for the image: random or, with a ``ImageOpener/sourceDate``, derived from that, the file's name
    /// and `purpose`.
    public func newUUID(for purpose: String) -> ImageUUID {
        ImageUUID.make(for: purpose, in: file.filename, sourceDate: opener.sourceDate)
    }

    /// Opens a further file of the image, after asking the ``OpenPolicy``.
    ///
    /// The first one becomes child 1 of the image's node, the next child 2, and so on (``Extent/child``). The
    /// node closes them; if `open` throws, they are closed too. The user's options below `role.` override the
    /// names in the image; the policy is not asked about a `filename` among them. A name in the image always
    /// means a file, never `json:` or another protocol.
    ///
    /// - Parameters:
    ///   - statedName: the name in the image; a relative one counts from the image's folder.
    ///   - otherNames: names to try in turn when no file has that one.
    ///   - role: its role, in options and in `info`: `data-file`, `extents.0`.
    /// - Returns: `nil` when no other file may be opened (``OpenSettings/metadataOnly``).
    /// - Throws: `denied`; `corrupt` when it is the image's own file; as
    ///   ``ImageOpener/open(_:format:settings:options:)``.
    public func openChild(
        _ statedName: String, otherNames: [String] = [], role: String, purpose: OpenPolicy.Request.Role,
        options: inout OptionTree
    ) throws(BlockError) -> BlockNode? {
        var own = options.takeSubtree(role)
        let format = own["driver"].flatMap { opener.registry.format(named: $0) }
        if format?.traits.contains(.plainBytes) == true {
            // `raw` over a file has the same bytes as the file: open the file itself.
            own["driver"] = nil
            let inner = own.takeSubtree("file")
            own.addDefaults(inner)
        }
        let isNamedByImage = own["filename"] == nil
        if isNamedByImage, !statedName.isEmpty {
            opened.append(
                FileReference(role: role, purpose: purpose, statedName: statedName, otherNames: otherNames))
        }
        if settings.metadataOnly { return nil }
        var path = path
        var grant: FileGrant?
        if isNamedByImage {
            grant = try opener.grant(
                statedName, orElse: otherNames, of: file, for: purpose, writing: !settings.readOnly)
            own["filename"] = grant?.name
            path.confinement = grant?.confinement
            if own["driver"] == nil { own["driver"] = "file" }
        }
        let node = try opener.openStorage(nil, options: own, settings: settings, path: path)
        try opener.closingOnFailure(node) { () throws(BlockError) in
            try path.check(node)
            guard let identity = node.identity, identity == file.identity else { return }
            throw BlockError(
                .corrupt, "The \(purpose.rawValue) '\(node.filename)' is the image itself",
                path: file.filename)
        }
        if let grant { node.askBeforeWriting { () throws(BlockError) in try grant.checkWriting() } }
        opened.append(node, role: role)
        return node
    }

    /// Opens a further file that the user names with options below `role.`: a detached header.
    ///
    /// As ``openChild(_:otherNames:role:purpose:options:)``, but the image does not name it: so the policy is
    /// not asked, and `info` opens it too.
    /// - Returns: `nil` when there are no such options.
    /// - Throws: `invalidArgument` when it is the image's own file; as
    ///   ``ImageOpener/open(_:format:settings:options:)``.
    public func openNamedChild(role: String, options: inout OptionTree) throws(BlockError) -> BlockNode? {
        let own = options.takeSubtree(role)
        if own.isEmpty { return nil }
        let node = try opener.openStorage(nil, options: own, settings: settings, path: path)
        if let identity = node.identity, identity == file.identity {
            try? node.close()
            throw BlockError(
                .invalidArgument, "'\(role)' names the image's own file", path: file.filename)
        }
        opened.append(node, role: role)
        return node
    }

    /// Makes a further file for an image that grows, and opens it for writing.
    ///
    /// The caller closes it.
    ///
    /// - Parameter statedName: the name that the image will state, about which the policy is asked.
    /// - Throws: `denied`; `exists` for a file that is not empty; `unsupported`, `noSpace`, `io`.
    public func createFurtherFile(
        _ statedName: String, purpose: OpenPolicy.Request.Role
    ) throws(BlockError) -> BlockNode {
        let grant = try opener.grant(statedName, of: file, for: purpose, writing: true)
        return try opener.makeFile(grant)
    }

    /// Opens the image's next backing file, read-only and without its own backing file, for a driver that
    /// stores its identity in the image.
    ///
    /// The caller closes it.
    ///
    /// - Throws: `denied`; as ``ImageOpener/open(_:format:settings:options:)``.
    public func openBacking(_ reference: BackingReference) throws(BlockError) -> BlockNode {
        var settings = OpenSettings()
        settings.withoutKeys = true
        return try opener.openBacking(reference, of: file, settings: settings)
    }

    /// The file and the further files that were opened, with their roles.
    var children: [(role: String, node: BlockNode)] { [("file", file)] + opened.all }

    /// The further files that the image names.
    var references: [FileReference] { opened.references }

    /// Closes the further files that were opened.
    func closeOpened() { opened.all.forEach { try? $0.node.close() } }
}

/// The further files that a driver opened, and those that the image names. Thread-safe.
private final class OpenedChildren: Sendable {
    private let nodes = Mutex<[(role: String, node: BlockNode)]>([])
    private let named = Mutex<[FileReference]>([])

    var all: [(role: String, node: BlockNode)] { nodes.withLock { $0 } }
    var references: [FileReference] { named.withLock { $0 } }
    func append(_ node: BlockNode, role: String) { nodes.withLock { $0.append((role, node)) } }
    func append(_ reference: FileReference) { named.withLock { $0.append(reference) } }
}
