/// The arguments of a format's `create`, with the calls that make its files.
public struct CreateContext: Sendable {
    /// The drivers with which the new image's files are made and opened.
    public let registry: DriverRegistry
    /// The image's file name, as the user stated it.
    public let filename: String
    /// The secrets that options such as `key-secret` name.
    public let secrets: SecretSource
    /// The time for the image, in seconds since 1970, UTC: it also makes its random values repeatable.
    ///
    /// `nil` for the current time.
    public let sourceDate: Int?
    /// The options of the image, including those of its protocol (`nocow`, ...).
    private let options: CreateOptions
    private let rules: CreationRules
    private let opener: ImageOpener
    /// Whether the file reserves the space, because the format has no option `preallocation`.
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

    /// Reports a remark about the new image that is no error, one line a call.
    public func note(_ text: String) { rules.note(text) }

    /// Opens the new image's backing file, read-only and without its own backing file.
    ///
    /// The caller closes it.
    ///
    /// - Parameter reference: a relative name counts from the new image's folder.
    /// - Returns: `nil` when it does not exist and the user allows that.
    /// - Throws: as ``ImageOpener/open(_:format:settings:options:)``.
    public func openBacking(_ reference: BackingReference) throws(BlockError) -> BlockNode? {
        do throws(BlockError) {
            return try opener.openAlone(
                FileNames.resolve(reference.filename, relativeTo: filename), format: reference.format)
        } catch {
            guard error.kind == .notFound, !rules.needsBacking else { throw error }
            return nil
        }
    }

    /// A UUID for the new image: random or, with a ``sourceDate``, derived from that, the file's name and
    /// `purpose`.
    public func newUUID(for purpose: String) -> ImageUUID {
        ImageUUID.make(for: purpose, in: filename, sourceDate: sourceDate)
    }

    /// Makes the image's file, emptying an existing one, and opens it for writing.
    ///
    /// - Parameters:
    ///   - name: the name of another file of the image; `nil` for the image itself.
    ///   - size: the length in bytes.
    ///   - preallocation: how its space is reserved; `nil` for the user's option, if the format has none of
    ///     its own.
    /// - Throws: `unsupported`, `invalidArgument`, `exists`, `notFound`, `denied`, `busy`, `noSpace`, `io`;
    ///   errors of ``CreationRules/willMake``.
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
            try own.set(option.key, to: options[option.key])
        }
        try own.set(.size, to: String(size))
        var mode = preallocation ?? .off
        if preallocation == nil, leavesSpaceToFile { mode = try options.preallocation() }
        if mode != .off || own.declares(.preallocation) { try own.set(.preallocation, to: mode.rawValue) }
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
    /// The options for creating `format` at `filename`: those of the format, then those of the protocol.
    ///
    /// - Throws: `unsupported` for an unknown format or protocol, and a format that cannot be created.
    public func createOptions(format: String, filename: String) throws(BlockError) -> CreateOptions {
        if let storage = protocolAsFormat(format) { return CreateOptions(storage.createOptions) }
        var declared = try creatableFormat(format).createOptions
        // A filter makes no files: `createFile` reports that.
        if registry.filter(named: nil, orBy: filename) != nil { return CreateOptions(declared) }
        let (entry, _) = try registry.resolve(filename)
        for option in entry.createOptions where !declared.contains(where: { $0.key == option.key }) {
            declared.append(option)
        }
        return CreateOptions(declared)
    }

    /// Makes an image.
    ///
    /// `options` come from ``createOptions(format:filename:)``.
    ///
    /// - Throws: as ``Creatable/create(_:in:)`` and ``CreateContext/createFile(named:size:preallocation:)``.
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

    /// Begins an image that is written from front to back, and returns the node to write to.
    ///
    /// - Parameter storage: the node to store the bytes in; `nil` to make the file.
    /// - Returns: `nil` when the format does not write an image with these options from front to back.
    /// - Throws: as ``CreateContext/createFile(named:size:preallocation:)`` and
    ///   ``StreamWriting/beginStream(_:in:on:)``.
    public func createStream(
        _ filename: String, format: String, options: CreateOptions, rules: CreationRules,
        to storage: BlockNode? = nil
    ) throws(BlockError) -> BlockNode? {
        guard let driver = registry.format(named: format)?.asStreamWriting,
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

    /// Opens an image alone, without its backing file and without keys, also while another program writes to
    /// it: users make overlays over the disks of running machines.
    func openAlone(_ filename: String, format: String?) throws(BlockError) -> BlockNode {
        var settings = OpenSettings(forceShare: true, withoutBacking: true)
        settings.withoutKeys = true
        return try open(filename, format: format, settings: settings)
    }

    /// Makes a further file of an image, inside its confinement, and opens it for writing.
    ///
    /// - Throws: `denied`; `exists` for a file that is not empty; as
    ///   ``CreateContext/createFile(named:size:preallocation:)``.
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

    /// The options and the call for creating a file of the protocol `name` without a format; `nil` when that
    /// is a format's name, or when the protocol makes no files.
    public func protocolAsFormat(
        _ name: String
    ) -> (createOptions: [CreateOption], create: ProtocolEntry.Create)? {
        guard registry.format(named: name) == nil, let entry = registry.protocolEntry(named: name),
            let create = entry.create
        else { return nil }
        return (entry.createOptions, create)
    }

    /// The format of that name, as one that can make images.
    ///
    /// - Throws: `unsupported` for an unknown format, and for one that cannot make images.
    public func creatableFormat(_ name: String) throws(BlockError) -> any Creatable.Type {
        guard let format = registry.format(named: name) else {
            if registry.filter(named: name, orBy: nil) != nil { throw Self.cannotMake(name) }
            throw registry.unknown("Unknown file format", name)
        }
        guard let creatable = format.asCreatable else {
            throw Self.cannotMake(name)
        }
        return creatable
    }

    private static func cannotMake(_ driver: String) -> BlockError {
        BlockError(.unsupported, "Format driver '\(driver)' does not support image creation")
    }

    /// Puts a temporary overlay over `base`: writes are stored in a file whose name is removed at once.
    ///
    /// - Parameters:
    ///   - base: a read-only node; closed with the overlay, or when this throws.
    ///   - path: the name of the temporary file, which is empty or does not exist.
    ///   - format: the format of the overlay, which must have backing files.
    ///   - settings: the settings of the overlay, which is opened for writing and with cache mode `unsafe` in
    ///     any case.
    ///   - unlink: removes the file of that name; called once, when the overlay is open or after a failure.
    /// - Throws: as ``create(_:format:options:rules:)`` and ``open(_:format:settings:options:)``.
    public func openTemporaryOverlay(
        over base: BlockNode, at path: String, format: String, settings: OpenSettings = OpenSettings(),
        unlink: (String) -> Void
    ) throws(BlockError) -> BlockNode {
        do throws(BlockError) {
            defer { unlink(path) }
            var options = try createOptions(format: format, filename: path)
            try options.set(.size, to: String(try base.length()))
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
