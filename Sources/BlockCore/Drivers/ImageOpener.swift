/// The one place where images and the files that they name are opened.
///
/// Thread-safe: an immutable value.
///
/// ```swift
/// let registry = DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all)
/// let opener = ImageOpener(registry: registry, policy: .sameFolder)
/// let disk = try opener.open("disk.qcow2")
/// print(disk.driverName, try disk.length())
/// try disk.close()
/// ```
public struct ImageOpener: Sendable {
    /// The drivers that images are opened with.
    public private(set) var registry: DriverRegistry
    /// Decides about every file that an image names.
    public let policy: OpenPolicy
    /// The keys and passwords of encrypted images.
    public let secrets: SecretSource
    /// The groups that throttle filters name.
    public var throttleGroups = ThrottleGroups()
    /// The time that new images carry, in seconds since 1970, UTC; `nil` for the current time.
    public var sourceDate: Int?
    /// Gets warnings about images that can be opened, one line a call.
    public var warn: (@Sendable (String) -> Void)?
    /// The names of open nodes, shared by all copies of this opener.
    let nodeNames = NodeNames()

    /// An opener with these drivers; without a policy it opens every file that an image names.
    public init(
        registry: DriverRegistry, policy: OpenPolicy = .anyFile, secrets: SecretSource = .none,
        sourceDate: Int? = nil
    ) {
        self.sourceDate = sourceDate
        self.registry = registry
        self.policy = policy
        self.secrets = secrets
    }

    /// The same opener with another registry.
    public func using(_ registry: DriverRegistry) -> ImageOpener {
        var opener = self
        opener.registry = registry
        return opener
    }

    /// Opens the image in `filename` with its backing chain.
    ///
    /// - Parameters:
    ///   - filename: a path, `scheme:…`, or `json:{…}` with options.
    ///   - format: the format's name; `nil` to probe the file.
    /// - Throws: `notFound`, `denied`, `wrongFormat`, `corrupt`, `unsupported`, `invalidArgument`,
    ///   `readOnly`, `busy`, `limit`, `io`. The message has no "Could not open 'filename'" in front.
    /// - Complexity: O(*images of the chain*), besides the work of each format.
    public func open(
        _ filename: String, format: String? = nil, settings: OpenSettings = OpenSettings(),
        options: OptionTree = OptionTree()
    ) throws(BlockError) -> BlockNode {
        try open(filename, format: format, settings: settings, options: options, path: OpenPath())
    }

    /// Opens an image described by options alone (`--image-opts`).
    ///
    /// - Throws: as ``open(_:format:settings:options:)``.
    public func open(options: OptionTree, settings: OpenSettings = OpenSettings()) throws(BlockError)
        -> BlockNode
    {
        try open(nil, format: nil, settings: settings, options: options, path: OpenPath())
    }

    /// Opens an image in storage that is open already: standard input, memory, a socket.
    ///
    /// - Parameter filename: the name in messages; relative names in the image count from its folder.
    /// - Throws: as ``open(_:format:settings:options:)``; `storage` is closed then.
    public func open(
        storage: any ProtocolDriver, filename: String, format: String? = nil,
        settings: OpenSettings = OpenSettings(), options: OptionTree = OptionTree()
    ) throws(BlockError) -> BlockNode {
        let file = BlockNode(.storage(storage), filename: filename, settings: settings)
        let layer = try closingOnFailure(file) { () throws(BlockError) -> OpenedLayer in
            try openFormat(format, on: file, settings: settings, options: options, path: OpenPath())
        }
        return try withBacking(layer, path: OpenPath())
    }

    func open(
        _ filename: String?, format: String?, settings: OpenSettings, options: OptionTree, path: OpenPath
    ) throws(BlockError) -> BlockNode {
        let layer = try openLayer(filename, format: format, settings: settings, options: options, path: path)
        return try withBacking(layer, path: path)
    }

    /// Opens the backing images of `top` in a loop: a long chain needs no deep stack.
    private func withBacking(_ top: OpenedLayer, path: OpenPath) throws(BlockError) -> BlockNode {
        var path = path
        return try closingOnFailure(top.node) { () throws(BlockError) -> BlockNode in
            var layer = top
            while let below = layer.below {
                try path.enter(below.file)
                guard let next = try openBacking(of: layer.node, below, path: path) else { break }
                layer.node.backing = next.node
                // A check reads the image alone.
                if !below.settings.forCheck {
                    try below.parentCheck.run(on: layer.node, below.settings, warn)
                }
                layer = next
            }
            return top.node
        }
    }

    /// Opens one image without its backing images.
    private func openLayer(
        _ filename: String?, format: String?, settings: OpenSettings, options: OptionTree, path: OpenPath
    ) throws(BlockError) -> OpenedLayer {
        var options = options
        var filename = filename
        if let text = filename, text.hasPrefix("json:") {
            options.addDefaults(try JSONReader.options(String(text.dropFirst(5))))
            filename = nil
        }
        let driver = options.take("driver") ?? format
        if let driver, registry.format(named: driver) == nil, registry.isBelowFormats(driver) {
            options["driver"] = driver
            let node = try openBelow(filename, options: options, settings: settings, path: path)
            return try closingOnFailure(node) { () throws(BlockError) -> OpenedLayer in
                try path.check(node)
                return OpenedLayer(node: node)
            }
        }
        var settings = settings
        let nodeOptions = try NodeOptions(taking: &options, into: &settings, isStorage: false, nodeNames)
        let layer = try nodeOptions.open(settings) { (settings) throws(BlockError) in
            try openImage(filename, driver: driver, settings: settings, options: options, path: path)
        }
        layer.node.name = nodeOptions.name
        return layer
    }

    private func openImage(
        _ filename: String?, driver: String?, settings: OpenSettings, options: OptionTree, path: OpenPath
    ) throws(BlockError) -> OpenedLayer {
        var options = options
        var fileOptions = options.takeSubtree("file")
        if let name = options.take("filename") { fileOptions["filename"] = name }
        // The option names an open node; nodes cannot be shared here.
        if let name = options.take("file") { throw Self.noNode(name) }
        guard filename != nil || !fileOptions.isEmpty else {
            throw BlockError(
                .invalidArgument,
                driver == nil
                    ? "Must specify either driver or file" : "A block device must be specified for \"file\"")
        }
        var fileSettings = settings
        fileSettings.declaresUseLater = true
        fileSettings.detectZeroes = .off
        let file = try openStorage(filename, options: fileOptions, settings: fileSettings, path: path)
        return try closingOnFailure(file) { () throws(BlockError) -> OpenedLayer in
            if file.isReadOnly && !settings.readOnly {
                throw BlockError(.readOnly, "Block node is read-only", path: file.filename)
            }
            return try openFormat(driver, on: file, settings: settings, options: options, path: path)
        }
    }

    private func openFormat(
        _ driver: String?, on file: BlockNode, settings: OpenSettings, options: OptionTree, path: OpenPath
    ) throws(BlockError) -> OpenedLayer {
        let format = try chooseFormat(driver, file)
        try path.check(file)
        try file.declareUse(
            toleratingWriters: format.traits.contains(.plainBytes) && !settings.excludesWriters)
        var options = options
        let backingOptions = options.takeSubtree("backing")
        var settings = settings
        if let reference = options.take("backing") {
            // JSON's null is stored as an empty text.
            guard reference.isEmpty else {
                var failure = Self.noNode(reference)
                failure.path = file.filename
                throw failure
            }
            settings.withoutBacking = true
        }
        let parentCheck = try ParentCheck(taking: &options, format, depth: path.depth)
        let request = OpenRequest(
            file: file, settings: settings, wasProbed: driver == nil,
            namesBacking: !ParentCheck.isAll(of: backingOptions), opener: self, path: path)
        let node = try openNode(format, request, &options)
        return try closingOnFailure(node) { () throws(BlockError) -> OpenedLayer in
            if let unknown = options.keys.first {
                throw BlockError(
                    .invalidArgument,
                    "Block format '\(format.name)' does not support the option '\(unknown)'",
                    path: file.filename)
            }
            if !settings.readOnly && !settings.forCheck && !settings.metadataOnly { try node.refuseIfCut() }
            let below = OpenedLayer.Below(
                file: file, options: backingOptions, settings: settings, parentCheck: parentCheck,
                confinement: path.confinement.flatMap { $0.isOfOptions ? $0 : nil })
            return OpenedLayer(node: node, below: below)
        }
    }

    static func noNode(_ name: String) -> BlockError {
        BlockError(.invalidArgument, "Cannot find device='\(name)' nor node-name='\(name)'")
    }

    private func openNode(
        _ format: any FormatDriver.Type, _ request: OpenRequest, _ options: inout OptionTree
    ) throws(BlockError) -> BlockNode {
        do throws(BlockError) {
            let naming = NodeNaming(format, options, over: request.file)
            let stated = options
            let driver = try format.open(request, options: &options)
            let children = request.children
            let node = BlockNode(
                .format(driver), filename: request.file.filename, children: children.map(\.node),
                roles: children.map(\.role), references: request.references, settings: request.settings,
                naming: naming)
            if children.count == 1 {
                node.rereads { () throws(BlockError) in
                    var options = stated
                    return try format.open(request.rereading, options: &options)
                }
            }
            return node
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

    /// The next image of the chain, without its backing images; `nil` at the chain's end.
    private func openBacking(
        of node: BlockNode, _ below: OpenedLayer.Below, path: OpenPath
    ) throws(BlockError) -> OpenedLayer? {
        if below.settings.withoutBacking || below.settings.metadataOnly { return nil }
        let stated = node.format?.backing
        if stated == nil && below.options.isEmpty { return nil }
        guard stated != nil || !ParentCheck.isAll(of: below.options) else {
            throw BlockError(
                .invalidArgument, "There is no backing file for the 'backing' options", path: node.filename)
        }
        var settings = below.settings
        settings.readOnly = true
        settings.detectZeroes = .off
        let options = below.options
        var grant: FileGrant?
        if options["file.filename"] == nil && options["filename"] == nil, let stated {
            grant = try self.grant(
                stated.filename, orElse: stated.otherNames, of: node, for: .backing)
        }
        var path = path
        path.confinement = grant?.confinement ?? (grant == nil ? below.confinement : nil)
        do throws(BlockError) {
            let layer = try openLayer(
                grant?.name, format: stated?.format, settings: settings, options: options, path: path)
            if let grant { layer.node.askBeforeWriting { () throws(BlockError) in try grant.checkWriting() } }
            return layer
        } catch {
            throw error.kind == .denied ? error : error.prefixed("Could not open backing file")
        }
    }

    /// Runs `body`; when it fails, closes `node` first.
    func closingOnFailure<Result>(
        _ node: BlockNode, _ body: () throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        do throws(BlockError) { return try body() } catch {
            try? node.close()
            throw error
        }
    }
}

/// An open image, and the values needed to open its backing image.
private struct OpenedLayer {
    struct Below {
        /// The node that holds the image's bytes.
        var file: BlockNode
        /// The user's options for the backing file.
        var options: OptionTree
        var settings: OpenSettings
        var parentCheck: ParentCheck
        /// The confinement of the files in `options`, when an image stated them.
        var confinement: FileConfinement?
    }

    var node: BlockNode
    /// `nil` for a protocol, and for a filter, which is opened with all nodes below it.
    var below: Below?
}
