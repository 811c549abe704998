/// The one place where images and the files that they name are opened.
///
/// Thread-safe: an immutable value.
public struct ImageOpener: Sendable {
    /// How many layers a backing chain may have.
    public static let maximumChainDepth = 200

    public private(set) var registry: DriverRegistry
    public let policy: OpenPolicy
    /// What unlocks encrypted images.
    public let secrets: SecretSource
    /// The time that new images carry, in seconds since 1970; `nil`: now.
    public var sourceDate: Int?
    /// Gets what a person should know of an image that is opened all the same.
    public var warn: (@Sendable (String) -> Void)?

    public init(
        registry: DriverRegistry, policy: OpenPolicy = .anyFile, secrets: SecretSource = .none,
        sourceDate: Int? = nil
    ) {
        self.sourceDate = sourceDate
        self.registry = registry
        self.policy = policy
        self.secrets = secrets
    }

    /// The same with another registry.
    public func using(_ registry: DriverRegistry) -> ImageOpener {
        var opener = self
        opener.registry = registry
        return opener
    }

    /// What has been opened above a node of a chain.
    private struct Above {
        var identities: [String] = []
        var depth = 0
    }

    /// Opens the image in `filename` with its backing chain.
    ///
    /// - Parameters:
    ///   - filename: a path, `scheme:…`, or `json:{…}` with options.
    ///   - format: the format's name; `nil` probes.
    /// - Throws: the reason, without "Could not open 'filename'".
    public func open(
        _ filename: String, format: String? = nil, settings: OpenSettings = OpenSettings(),
        options: OptionTree = OptionTree()
    ) throws(BlockError) -> BlockNode {
        try open(filename, format: format, settings: settings, options: options, above: Above())
    }

    /// Opens an image described by options alone (`--image-opts`).
    public func open(options: OptionTree, settings: OpenSettings = OpenSettings()) throws(BlockError)
        -> BlockNode
    {
        try open(nil, format: nil, settings: settings, options: options, above: Above())
    }

    /// Opens an image in storage that is open already: standard input, memory, a socket.
    ///
    /// - Parameter filename: what messages call it; relative names in the image are meant from its folder.
    /// - Throws: as for a file; `storage` is closed then.
    public func open(
        storage: any ProtocolDriver, filename: String, format: String? = nil,
        settings: OpenSettings = OpenSettings(), options: OptionTree = OptionTree()
    ) throws(BlockError) -> BlockNode {
        let file = BlockNode(.storage(storage), filename: filename, settings: settings)
        return try closingOnFailure(file) { () throws(BlockError) -> BlockNode in
            try openFormat(format, on: file, settings: settings, options: options, above: Above())
        }
    }

    private func open(
        _ filename: String?, format: String?, settings: OpenSettings, options: OptionTree, above: Above
    ) throws(BlockError) -> BlockNode {
        var options = options
        var filename = filename
        if let text = filename, text.hasPrefix("json:") {
            options.addDefaults(try JSONReader.options(String(text.dropFirst(5))))
            filename = nil
        }
        let driver = options.take("driver") ?? format
        if let driver, registry.format(named: driver) == nil, registry.protocolEntry(named: driver) != nil {
            options["driver"] = driver
            return try openStorage(filename, options: options, settings: settings)
        }
        var settings = settings
        let nodeOptions = try NodeOptions(taking: &options, into: &settings, isStorage: false)
        return try nodeOptions.open(settings) { (settings) throws(BlockError) in
            try openImage(filename, driver: driver, settings: settings, options: options, above: above)
        }
    }

    private func openImage(
        _ filename: String?, driver: String?, settings: OpenSettings, options: OptionTree, above: Above
    ) throws(BlockError) -> BlockNode {
        var options = options
        var fileOptions = options.takeSubtree("file")
        if let name = options.take("filename") { fileOptions["filename"] = name }
        guard filename != nil || !fileOptions.isEmpty else {
            throw BlockError(
                .invalidArgument,
                driver == nil
                    ? "Must specify either driver or file" : "A block device must be specified for \"file\"")
        }
        var fileSettings = settings
        fileSettings.declaresUseLater = true
        fileSettings.detectZeroes = .off
        let file = try openStorage(filename, options: fileOptions, settings: fileSettings)
        return try closingOnFailure(file) { () throws(BlockError) -> BlockNode in
            if file.isReadOnly && !settings.readOnly {
                throw BlockError(.readOnly, "Block node is read-only", path: file.filename)
            }
            return try openFormat(driver, on: file, settings: settings, options: options, above: above)
        }
    }

    /// Opens what an image's bytes are in: a protocol, or another format, such as a window of a raw file.
    /// `options` are those below `file.`.
    func openStorage(
        _ filename: String?, options: OptionTree, settings: OpenSettings
    ) throws(BlockError) -> BlockNode {
        if let name = options["driver"], registry.format(named: name) != nil {
            var settings = settings
            settings.declaresUseLater = false
            return try open(filename, format: nil, settings: settings, options: options, above: Above())
        }
        var options = options
        let driver = options.take("driver")
        let (entry, path) = try chooseProtocol(driver, filename ?? options.take("filename") ?? "")
        var settings = settings
        let nodeOptions = try NodeOptions(taking: &options, into: &settings, isStorage: true)
        let rest = options
        return try nodeOptions.open(settings) { (settings) throws(BlockError) in
            try openStorage(entry, path, options: rest, settings: settings)
        }
    }

    private func openStorage(
        _ entry: ProtocolEntry, _ path: String, options: OptionTree, settings: OpenSettings
    ) throws(BlockError) -> BlockNode {
        var options = options
        let storage = try entry.open(path, &options, settings)
        if let unknown = options.keys.first {
            storage.close()
            throw BlockError(
                .invalidArgument, "Block protocol '\(entry.name)' doesn't support the option '\(unknown)'",
                path: path)
        }
        return BlockNode(.storage(storage), filename: path, settings: settings)
    }

    /// The protocol that serves `name`, which may be empty, and the name to hand to it.
    private func chooseProtocol(
        _ driver: String?, _ name: String
    ) throws(BlockError) -> (entry: ProtocolEntry, name: String) {
        // The system would cut the name there and open another file than the policy was asked about.
        guard !name.utf8.contains(0) else {
            throw BlockError(.invalidArgument, "A file name must not contain a zero byte", path: name)
        }
        guard let driver else {
            guard !name.isEmpty else { throw Self.noName("file") }
            return try registry.resolve(name)
        }
        guard let entry = registry.protocolEntry(named: driver) else {
            throw registry.unknown("Unknown driver", driver, path: name)
        }
        if !name.isEmpty { return (entry, name) }
        guard !entry.needsFilename else { throw Self.noName(entry.name) }
        return (entry, "\(entry.name)://")
    }

    private static func noName(_ driver: String) -> BlockError {
        BlockError(.invalidArgument, "The '\(driver)' block driver requires a file name")
    }

    private func openFormat(
        _ driver: String?, on file: BlockNode, settings: OpenSettings, options: OptionTree, above: Above
    ) throws(BlockError) -> BlockNode {
        let format = try chooseFormat(driver, file)
        let identity = file.storage?.identity
        if let identity, above.identities.contains(identity) {
            throw BlockError(
                .corrupt, "Backing file '\(file.filename)' creates an infinite loop.", path: file.filename)
        }
        if let storage = file.storage?.asUseDeclaring {
            let tolerates = format.toleratesOtherWriters && !settings.excludesWriters
            try storage.declareUse(toleratingWriters: tolerates)
        }
        var options = options
        let backingOptions = options.takeSubtree("backing")
        var settings = settings
        if let reference = options.take("backing") {
            // JSON's null arrives as an empty text.
            guard reference.isEmpty else {
                throw BlockError(
                    .invalidArgument, "Cannot find device='\(reference)' nor node-name='\(reference)'",
                    path: file.filename)
            }
            settings.withoutBacking = true
        }
        let parentCheck = try ParentCheck(taking: &options, format, depth: above.depth)
        let request = OpenRequest(
            file: file, settings: settings, wasProbed: driver == nil,
            namesBacking: !ParentCheck.isAll(of: backingOptions), opener: self)
        let node = try openNode(format, request, &options)
        return try closingOnFailure(node) { () throws(BlockError) -> BlockNode in
            if let unknown = options.keys.first {
                throw BlockError(
                    .invalidArgument,
                    "Block format '\(format.name)' does not support the option '\(unknown)'",
                    path: file.filename)
            }
            var next = above
            next.depth += 1
            if let identity { next.identities.append(identity) }
            node.backing = try openBacking(of: node, options: backingOptions, settings: settings, above: next)
            // A check looks at the image alone.
            if !settings.forCheck { try parentCheck.run(on: node, settings, warn) }
            return node
        }
    }

    private func openNode(
        _ format: any FormatDriver.Type, _ request: OpenRequest, _ options: inout OptionTree
    ) throws(BlockError) -> BlockNode {
        do throws(BlockError) {
            let driver = try format.open(request, options: &options)
            let children = request.children
            return BlockNode(
                .format(driver), filename: request.file.filename, children: children.map(\.node),
                roles: children.map(\.role), settings: request.settings)
        } catch {
            request.closeOpened()
            throw error
        }
    }

    private func chooseFormat(_ name: String?, _ file: BlockNode) throws(BlockError) -> any FormatDriver.Type
    {
        if let name {
            guard let format = registry.format(named: name) else {
                throw registry.unknown("Unknown driver", name, path: file.filename)
            }
            return format
        }
        return try registry.probe(file)
    }

    private func openBacking(
        of node: BlockNode, options: OptionTree, settings: OpenSettings, above: Above
    ) throws(BlockError) -> BlockNode? {
        if settings.withoutBacking || settings.metadataOnly { return nil }
        let stated = node.format?.backing
        if stated == nil && options.isEmpty { return nil }
        guard stated != nil || !ParentCheck.isAll(of: options) else {
            throw BlockError(
                .invalidArgument, "There is no backing file for the 'backing' options", path: node.filename)
        }
        guard above.depth < Self.maximumChainDepth else {
            throw BlockError(
                .limit, "The backing chain has more than \(Self.maximumChainDepth) layers",
                path: node.filename)
        }
        var below = settings
        below.readOnly = true
        below.detectZeroes = .off
        var filename: String?
        if options["file.filename"] == nil && options["filename"] == nil, let stated {
            filename = try allowedBackingName(stated.filename, of: node)
        }
        do throws(BlockError) {
            return try open(
                filename, format: stated?.format, settings: below, options: options, above: above)
        } catch {
            throw error.kind == .denied ? error : error.prefixed("Could not open backing file")
        }
    }

    /// The name to open for the backing file that `node` names, after asking the policy.
    ///
    /// - Throws: `denied`.
    public func allowedBackingName(_ name: String, of node: BlockNode) throws(BlockError) -> String {
        try allowedName(name, of: node.filename, for: .backing)
    }

    /// The name to open for a file that `image` names, after asking the policy.
    func allowedName(
        _ name: String, of image: String, for role: OpenPolicy.Request.Role
    ) throws(BlockError) -> String {
        let resolved = FileNames.resolve(name, relativeTo: image)
        var request = OpenPolicy.Request(role: role, statedName: name, resolvedName: resolved, image: image)
        request.leavesFolder = leavesFolder(resolved, of: image)
        try policy.check(request)
        return resolved
    }

    /// Whether a file that is there lies neither in the folder of the image's name nor in that of the file
    /// behind it, once links are followed.
    private func leavesFolder(_ name: String, of image: String) -> Bool {
        func followed(_ name: String) -> String? {
            guard let (entry, path) = try? registry.resolve(name) else { return nil }
            return entry.canonicalPath?(path)
        }
        guard let target = followed(name) else { return false }
        let named = followed(FileNames.resolve(".", relativeTo: image))
        let behind = followed(image).flatMap { followed(FileNames.resolve(".", relativeTo: $0)) }
        let folders = [named, behind].compactMap { $0 }
        return !folders.contains { target.hasPrefix($0.hasSuffix("/") ? $0 : $0 + "/") }
    }

    /// Runs `body`; when it fails, closes `node` first.
    private func closingOnFailure(
        _ node: BlockNode, _ body: () throws(BlockError) -> BlockNode
    ) throws(BlockError) -> BlockNode {
        do throws(BlockError) { return try body() } catch {
            try? node.close()
            throw error
        }
    }
}
