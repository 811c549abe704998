/// What a format's `create` gets to make its files with.
public struct CreateContext: Sendable {
    public let registry: DriverRegistry
    /// The image's file name as the user gave it.
    public let filename: String
    /// The secrets that options such as `key-secret` name.
    public let secrets: SecretSource
    /// Seconds since 1970 to put into images as the time, and to make repeatable images with; `nil`: now.
    public let sourceDate: Int?
    /// Options that belong to the protocol (`nocow`, ...), without size and preallocation.
    let passedOn: CreateOptions

    public init(
        registry: DriverRegistry, filename: String, options: CreateOptions, secrets: SecretSource = .none,
        sourceDate: Int? = nil
    ) {
        self.sourceDate = sourceDate
        self.registry = registry
        self.filename = filename
        self.secrets = secrets
        passedOn = options
    }

    /// A UUID for the new image: random, or from ``sourceDate``, the file's name and `purpose`.
    public func newUUID(for purpose: String) -> ImageUUID {
        let name = filename.split(separator: "/").last ?? ""
        return ImageUUID.make(seed: sourceDate.map { "\($0) \(name) \(purpose)" })
    }

    /// Makes the image's file (emptying one that is there) and opens it for writing.
    ///
    /// - Parameters:
    ///   - name: another file that belongs to the image; `nil` for the image itself.
    ///   - size: the length in bytes.
    public func createFile(
        named name: String? = nil, size: Int = 0, preallocation: Preallocation = .off
    ) throws(BlockError) -> BlockNode {
        let name = name ?? filename
        let (entry, path) = try registry.resolve(name)
        guard let create = entry.create else {
            throw BlockError(
                .unsupported, "Protocol driver '\(entry.name)' does not support image creation", path: name)
        }
        var options = CreateOptions(entry.createOptions)
        for key in [CreateOptionKey.nocow, .extentSizeHint] where passedOn[key] != nil {
            options.set(key, to: passedOn[key])
        }
        options.set(.size, to: String(size))
        options.set(.preallocation, to: preallocation.rawValue)
        try create(path, options)
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
        let (entry, _) = try registry.resolve(filename)
        for option in entry.createOptions where !declared.contains(where: { $0.key == option.key }) {
            declared.append(option)
        }
        return CreateOptions(declared)
    }

    /// Makes an image. `options` come from ``createOptions(format:filename:)``.
    public func create(_ filename: String, format: String, options: CreateOptions) throws(BlockError) {
        if let storage = protocolAsFormat(format) {
            return try storage.create(registry.resolve(filename).name, options)
        }
        let creatable = try creatableFormat(format)
        let context = CreateContext(
            registry: registry, filename: filename, options: options, secrets: secrets,
            sourceDate: sourceDate)
        try creatable.create(options, in: context)
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
            throw BlockError(.unsupported, "Unknown file format '\(name)'")
        }
        guard let creatable = format as? any Creatable.Type else {
            throw BlockError(.unsupported, "Format driver '\(name)' does not support image creation")
        }
        return creatable
    }

    /// Opens `filename` through a throw-away overlay: writes go to a temporary file that is deleted at once.
    ///
    /// - Parameters:
    ///   - temporaryPath: a file name that does not exist yet.
    ///   - overlayFormat: the format of the overlay; one with backing files.
    ///   - unlink: removes the file of that name; called once, while the overlay is open or after a failure.
    /// - Throws: what opening the image or making the overlay throws.
    public func openTemporarySnapshot(
        of filename: String, format: String? = nil, settings: OpenSettings = OpenSettings(),
        temporaryPath: String, overlayFormat: String, unlink: (String) -> Void
    ) throws(BlockError) -> BlockNode {
        var below = settings
        below.readOnly = true
        let base = try open(filename, format: format, settings: below)
        do throws(BlockError) {
            var options = try createOptions(format: overlayFormat, filename: temporaryPath)
            options.set(.size, to: String(try base.length()))
            defer { unlink(temporaryPath) }
            try create(temporaryPath, format: overlayFormat, options: options)
            var above = settings
            above.readOnly = false
            above.cache = .unsafe
            let overlay = try open(temporaryPath, format: overlayFormat, settings: above)
            overlay.backing = base
            return overlay
        } catch {
            try? base.close()
            throw error
        }
    }
}
