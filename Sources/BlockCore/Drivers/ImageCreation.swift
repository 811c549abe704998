/// What a format's `create` gets to make its files with.
public struct CreateContext: Sendable {
    public let registry: DriverRegistry
    /// The image's file name as the user gave it.
    public let filename: String
    /// The secrets that options such as `key-secret` name.
    public let secrets: SecretSource
    /// Seconds since 1970 to put into images as the time, and to make repeatable images with; `nil`: now.
    public let sourceDate: Int?
    /// The options of the image, of which some are the protocol's (`nocow`, ...).
    private let options: CreateOptions
    private let rules: CreationRules
    private let opener: ImageOpener
    /// The format has no option of its own for the space that it reserves.
    private let leavesSpaceToFile: Bool

    init(
        _ opener: ImageOpener, _ format: (any Creatable.Type)?, filename: String, options: CreateOptions,
        rules: CreationRules
    ) throws(BlockError) {
        leavesSpaceToFile = format?.createOptions.contains { $0.key == .preallocation } == false
        if leavesSpaceToFile, let format {
            let mode = try options.preallocation()
            let isPossible = mode == .off ? true : try format.reservesSpace(options)
            guard isPossible else {
                throw BlockError(.unsupported, "Unsupported preallocation mode '\(mode.rawValue)'")
            }
        }
        self.opener = opener
        self.filename = filename
        self.options = options
        self.rules = rules
        registry = opener.registry
        secrets = opener.secrets
        sourceDate = opener.sourceDate
    }

    /// Tells the user something of the new image that is no error.
    public func note(_ text: String) { rules.note(text) }

    /// The new image's backing file, read-only and without what lies below it. The caller closes it.
    ///
    /// - Parameter reference: a relative name counts from the new image's folder.
    /// - Returns: `nil` where it is not there and the user wants it to be named unseen.
    /// - Throws: what opening throws.
    public func openBacking(_ reference: BackingReference) throws(BlockError) -> BlockNode? {
        do throws(BlockError) {
            return try opener.openAlone(
                FileNames.resolve(reference.filename, relativeTo: filename), format: reference.format)
        } catch {
            guard error.kind == .notFound, !rules.needsBacking else { throw error }
            return nil
        }
    }

    /// A UUID for the new image: random, or from ``sourceDate``, the file's name and `purpose`.
    public func newUUID(for purpose: String) -> ImageUUID {
        ImageUUID.make(for: purpose, in: filename, sourceDate: sourceDate)
    }

    /// Makes the image's file (emptying one that is there) and opens it for writing.
    ///
    /// - Parameters:
    ///   - name: another file that belongs to the image; `nil` for the image itself.
    ///   - size: the length in bytes.
    ///   - preallocation: how its space is reserved; `nil`: as the user wants it of a format without such an
    ///     option of its own.
    public func createFile(
        named name: String? = nil, size: Int = 0, preallocation: Preallocation? = nil
    ) throws(BlockError) -> BlockNode {
        let name = name ?? filename
        if let filter = registry.filter(named: nil, orBy: name) {
            throw BlockError(
                .unsupported, "Protocol driver '\(filter.name)' does not support image creation", path: name)
        }
        let (entry, path) = try registry.resolve(name)
        guard let create = entry.create else {
            throw BlockError(
                .unsupported, "Protocol driver '\(entry.name)' does not support image creation", path: name)
        }
        var own = CreateOptions(entry.createOptions)
        for option in entry.createOptions where options[option.key] != nil {
            own.set(option.key, to: options[option.key])
        }
        own.set(.size, to: String(size))
        var mode = preallocation ?? .off
        if preallocation == nil, leavesSpaceToFile { mode = try options.preallocation() }
        own.set(.preallocation, to: mode.rawValue)
        try rules.willMake(name)
        try create(path, own)
        rules.didMake(name)
        var none = OptionTree()
        let settings = OpenSettings(readOnly: false)
        let storage = try entry.open(path, &none, settings)
        return BlockNode(.storage(storage), filename: name, settings: settings)
    }
}

extension ImageOpener {
    /// The options that creating `format` at `filename` takes: the format's, then those of the protocol.
    public func createOptions(format: String, filename: String) throws(BlockError) -> CreateOptions {
        if let storage = protocolAsFormat(format) { return CreateOptions(storage.createOptions) }
        var declared = try creatableFormat(format).createOptions
        // A filter makes no files, which comes out later.
        if registry.filter(named: nil, orBy: filename) != nil { return CreateOptions(declared) }
        let (entry, _) = try registry.resolve(filename)
        for option in entry.createOptions where !declared.contains(where: { $0.key == option.key }) {
            declared.append(option)
        }
        return CreateOptions(declared)
    }

    /// Makes an image. `options` come from ``createOptions(format:filename:)``.
    public func create(
        _ filename: String, format: String, options: CreateOptions, rules: CreationRules = CreationRules()
    ) throws(BlockError) {
        if let storage = protocolAsFormat(format) {
            try rules.willMake(filename)
            try storage.create(registry.resolve(filename).name, options)
            return rules.didMake(filename)
        }
        let creatable = try creatableFormat(format)
        let context = try CreateContext(
            self, creatable, filename: filename, options: options, rules: rules)
        try creatable.create(options, in: context)
    }

    /// Makes an image that is written from front to back, and answers a node that takes it.
    ///
    /// - Parameter storage: where the bytes go; without it the file is made.
    /// - Returns: `nil` where the format does not make an image with these options that way.
    /// - Throws: what making the file and beginning the stream throw.
    public func createStream(
        _ filename: String, format: String, options: CreateOptions, rules: CreationRules,
        to storage: BlockNode? = nil
    ) throws(BlockError) -> BlockNode? {
        guard let driver = registry.format(named: format) as? any StreamWriting.Type,
            driver.isStream(options)
        else { return nil }
        let context = try CreateContext(
            self, driver, filename: filename, options: options, rules: rules)
        let file: BlockNode
        if let storage { file = storage } else { file = try context.createFile(size: 0) }
        do throws(BlockError) {
            let stream = try driver.beginStream(options, in: context, on: file)
            return BlockNode(
                .format(stream), filename: filename, children: [file], settings: file.settings)
        } catch {
            try? file.close()
            throw error
        }
    }

    /// Opens an image for looking at it alone, without a backing file and without keys, also while another
    /// program writes to it: overlays are made over disks that a machine runs on.
    func openAlone(_ filename: String, format: String?) throws(BlockError) -> BlockNode {
        var settings = OpenSettings(forceShare: true, withoutBacking: true)
        settings.withoutKeys = true
        return try open(filename, format: format, settings: settings)
    }

    /// Makes a further file of an image where the image may have one, and opens it for writing.
    ///
    /// - Throws: `denied`; `exists` for a file that is there and not empty; what making it throws.
    func makeFile(_ grant: FileGrant) throws(BlockError) -> BlockNode {
        let (entry, path) = try registry.resolve(grant.name)
        let settings = OpenSettings(readOnly: false)
        if let make = entry.make {
            let storage = try make(path, grant.confinement)
            return BlockNode(.storage(storage), filename: path, settings: settings)
        }
        try grant.confinement?.checkText()
        if let there = try? openStorage(grant.name, options: OptionTree(), settings: OpenSettings()) {
            defer { try? there.close() }
            guard try there.length() == 0 else {
                throw BlockError(.exists, "'\(grant.name)' is there already and not empty", path: path)
            }
        }
        let context = try CreateContext(
            self, nil, filename: grant.name, options: CreateOptions([]), rules: CreationRules())
        return try context.createFile()
    }

    /// The protocol that makes files, where `name` is a protocol's and not a format's: an image without one.
    public func protocolAsFormat(
        _ name: String
    ) -> (createOptions: [CreateOption], create: ProtocolEntry.Create)? {
        guard registry.format(named: name) == nil, let entry = registry.protocolEntry(named: name),
            let create = entry.create
        else { return nil }
        return (entry.createOptions, create)
    }

    /// The format, if it can make images.
    public func creatableFormat(_ name: String) throws(BlockError) -> any Creatable.Type {
        guard let format = registry.format(named: name) else {
            if registry.filter(named: name, orBy: nil) != nil { throw Self.cannotMake(name) }
            throw registry.unknown("Unknown file format", name)
        }
        guard let creatable = format as? any Creatable.Type else {
            throw Self.cannotMake(name)
        }
        return creatable
    }

    private static func cannotMake(_ driver: String) -> BlockError {
        BlockError(.unsupported, "Format driver '\(driver)' does not support image creation")
    }

    /// Puts a throw-away overlay over `base`: writes go to a temporary file whose name is removed at once.
    ///
    /// - Parameters:
    ///   - base: open read-only; closed with the overlay, or when this throws.
    ///   - path: the name of the temporary file: of an empty file, or of none.
    ///   - format: the format of the overlay; one with backing files.
    ///   - settings: how the overlay is opened, but for writing, and without care for durability.
    ///   - unlink: removes the file of that name; called once, while the overlay is open or after a failure.
    /// - Throws: what making or opening the overlay throws.
    public func openTemporaryOverlay(
        over base: BlockNode, at path: String, format: String, settings: OpenSettings = OpenSettings(),
        unlink: (String) -> Void
    ) throws(BlockError) -> BlockNode {
        do throws(BlockError) {
            defer { unlink(path) }
            var options = try createOptions(format: format, filename: path)
            options.set(.size, to: String(try base.length()))
            try create(path, format: format, options: options)
            var above = settings
            above.readOnly = false
            above.cache = .unsafe
            above.engine = .threads
            let overlay = try open(path, format: format, settings: above)
            overlay.backing = base
            return overlay
        } catch {
            try? base.close()
            throw error
        }
    }
}
