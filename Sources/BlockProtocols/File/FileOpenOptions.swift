import BlockCore

/// The options for opening a file, from the caller's settings and the `file.…` options.
struct FileOpenOptions: Sendable {
    /// Whether to take the locks that show our use to other programs.
    enum Locking: String, Sendable {
        /// If the file system has such locks.
        case auto
        case on
        case off
    }

    var readOnly: Bool
    /// Whether to bypass the page cache.
    var isDirect: Bool
    /// Whether each write is durable when it returns.
    var isWriteThrough: Bool
    /// Whether `flush` does nothing.
    var ignoresFlush: Bool
    var locking: Locking
    /// Whether other programs may write at the same time.
    var forceShare: Bool
    /// Whether the locks are taken later, when the format is known.
    var declaresUseLater: Bool
    /// See ``OpenSettings/keepsLength``, ``OpenSettings/claims`` and ``OpenSettings/forbids``.
    var keepsLength: Bool
    var claims: UsePermissions
    var forbids: UsePermissions
    /// Whether `discard` gives space back.
    var discardUnmaps: Bool
    var engine: RequestEngine
    /// The limits on the place of the file, when an image names it.
    var confinement: FileConfinement?

    init(_ settings: OpenSettings) {
        readOnly = settings.readOnly
        isDirect = settings.cache.isDirect
        isWriteThrough = settings.cache.isWriteThrough
        ignoresFlush = settings.cache == .unsafe
        locking = .auto
        forceShare = settings.forceShare
        declaresUseLater = settings.declaresUseLater
        keepsLength = settings.keepsLength
        claims = settings.claims
        forbids = settings.forbids
        discardUnmaps = settings.discardUnmaps
        engine = settings.engine
        confinement = settings.confinement
    }

    /// Takes its own keys out of `options`.
    ///
    /// - Throws: `invalidArgument` for an invalid value.
    init(_ settings: OpenSettings, taking options: inout OptionTree) throws(BlockError) {
        self.init(settings)
        if let direct = try options.takeFlag("cache.direct") { isDirect = direct }
        if let ignores = try options.takeFlag("cache.no-flush") { ignoresFlush = ignores }
        if let text = options.take("locking") {
            guard let value = Locking(rawValue: text) else {
                throw BlockError(.invalidArgument, "invalid parameter value: \(text)")
            }
            locking = value
        }
        if forceShare && !readOnly {
            throw BlockError(.invalidArgument, "force-share=on can only be used with read-only images")
        }
        try Self.takeBatching(&options)
        try Self.takeMigration(&options)
        if let id = options.take("pr-manager") {
            throw BlockError(.invalidArgument, "No persistent reservation manager with id '\(id)'")
        }
        if let name = options.take("aio") {
            guard let named = RequestEngine(rawValue: name) else {
                throw BlockError(.invalidArgument, "invalid parameter value: \(name)")
            }
            engine = named
        }
        if engine == .native && !isDirect {
            throw BlockError(
                .invalidArgument,
                "aio=native was specified, but it requires cache.direct=on, which was not specified.")
        }
    }

    /// Takes the limit on requests that are passed to the kernel at once. Each is passed alone, so any limit
    /// is kept.
    private static func takeBatching(_ options: inout OptionTree) throws(BlockError) {
        _ = try options.takeNumber("aio-max-batch")
    }

    /// Takes options for handing an image over in a live migration, which Platter does not have.
    private static func takeMigration(_ options: inout OptionTree) throws(BlockError) {
        _ = try options.takeFlag("drop-cache")
        _ = try options.takeFlag("x-check-cache-dropped")
    }
}
