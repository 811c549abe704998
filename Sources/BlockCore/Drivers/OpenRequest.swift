import Synchronization

/// What a format's `open` gets to work with.
public struct OpenRequest: Sendable {
    /// The node that holds the image's bytes.
    public let file: BlockNode
    /// How the caller wants it opened.
    public let settings: OpenSettings
    /// Whether the format was guessed rather than named by the caller.
    public let wasProbed: Bool
    /// Whether the caller names a backing file, whatever the image says.
    public let namesBacking: Bool
    private let opener: ImageOpener
    private let path: OpenPath
    private let opened = OpenedChildren()

    init(
        file: BlockNode, settings: OpenSettings, wasProbed: Bool, namesBacking: Bool = false,
        opener: ImageOpener, path: OpenPath = OpenPath()
    ) {
        // Options that an image names do not name more than the image may.
        self.path = path.confinement?.isOfOptions == true ? path : path.unconfined
        self.namesBacking = namesBacking
        self.file = file
        self.settings = settings
        self.wasProbed = wasProbed
        self.opener = opener
    }

    /// All drivers, for those that probe.
    public var registry: DriverRegistry { opener.registry }
    /// The secrets that options such as `key-secret` name.
    public var secrets: SecretSource { opener.secrets }

    /// Tells a person what is wrong with an image that is opened all the same.
    public func warn(_ text: String) { opener.warn?("\(file.filename): \(text)") }

    /// A UUID for the image: random, or, where repeatable images are wanted, from the file's name and
    /// `purpose`.
    public func newUUID(for purpose: String) -> ImageUUID {
        ImageUUID.make(for: purpose, in: file.filename, sourceDate: opener.sourceDate)
    }

    /// Opens a further file that the image consists of, after asking the ``OpenPolicy``.
    ///
    /// The first one becomes child 1 of the image's node, the next child 2, and so on (``Extent/child``).
    /// The node closes them; where `open` throws, they are closed too. Options below `role.` that the user
    /// gave go before what the image states; the policy is not asked about a `filename` among them. A name
    /// that the image states is one of a file, whatever it looks like: no `json:`, no other protocol.
    ///
    /// - Parameters:
    ///   - statedName: the name in the image; a relative one is meant from the image's folder.
    ///   - otherNames: what to try in turn when that leads nowhere.
    ///   - role: what options and `info` call it: `data-file`, `extents.0`.
    /// - Returns: `nil` when no other file may be opened (``OpenSettings/metadataOnly``).
    /// - Throws: `denied`; `corrupt` when it is the image's own file; what opening throws.
    public func openChild(
        _ statedName: String, otherNames: [String] = [], role: String, purpose: OpenPolicy.Request.Role,
        options: inout OptionTree
    ) throws(BlockError) -> BlockNode? {
        var own = options.takeSubtree(role)
        let format = own["driver"].flatMap { opener.registry.format(named: $0) }
        if format?.traits.contains(.plainBytes) == true {
            // The same bytes, told as a format on a file.
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
    /// As ``openChild(_:otherNames:role:purpose:options:)``, but the image has no say, so that no policy is
    /// asked, and `info` opens it too.
    /// - Returns: `nil` when there are no such options.
    /// - Throws: `invalidArgument` when it is the image's own file; what opening throws.
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

    /// Makes a further file for an image that grows, and opens it for writing. The caller closes it.
    ///
    /// - Parameter statedName: the name that the image is going to state, of which the policy is asked.
    /// - Throws: `denied`; `exists` for a file that is there and not empty; what making it throws.
    public func createFurtherFile(
        _ statedName: String, purpose: OpenPolicy.Request.Role
    ) throws(BlockError) -> BlockNode {
        let grant = try opener.grant(statedName, of: file, for: purpose, writing: true)
        return try opener.makeFile(grant)
    }

    /// Opens what `reference` names as the image's next backing file, read-only and without what lies below
    /// it, for a driver that keeps in the image which file that is. The caller closes it.
    ///
    /// - Throws: `denied`; what opening throws.
    public func openBacking(_ reference: BackingReference) throws(BlockError) -> BlockNode {
        var settings = OpenSettings()
        settings.withoutKeys = true
        return try opener.openBacking(reference, of: file, settings: settings)
    }

    /// The file and what was opened beside it, with their roles.
    var children: [(role: String, node: BlockNode)] { [("file", file)] + opened.all }

    /// The further files that the image names.
    var references: [FileReference] { opened.references }

    /// Closes what was opened beside the file.
    func closeOpened() { opened.all.forEach { try? $0.node.close() } }
}

/// Files that a driver had opened beside the first, and those that the image names. Thread-safe.
private final class OpenedChildren: Sendable {
    private let nodes = Mutex<[(role: String, node: BlockNode)]>([])
    private let named = Mutex<[FileReference]>([])

    var all: [(role: String, node: BlockNode)] { nodes.withLock { $0 } }
    var references: [FileReference] { named.withLock { $0 } }
    func append(_ node: BlockNode, role: String) { nodes.withLock { $0.append((role, node)) } }
    func append(_ reference: FileReference) { named.withLock { $0.append(reference) } }
}
