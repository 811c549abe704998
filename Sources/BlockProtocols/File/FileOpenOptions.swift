import BlockCore

/// How to open a file, from the caller's settings and the `file.…` options.
struct FileOpenOptions: Sendable {
    /// Whether the locks that tell other programs of our use are taken.
    enum Locking: String, Sendable {
        /// Where the file system has them.
        case auto
        case on
        case off
    }

    var readOnly: Bool
    /// Past the page cache.
    var isDirect: Bool
    /// Each write is durable when it returns.
    var isWriteThrough: Bool
    /// `flush` does nothing.
    var ignoresFlush: Bool
    var locking: Locking
    /// Others may write meanwhile.
    var forceShare: Bool
    /// The locks are taken when the format is known.
    var declaresUseLater: Bool
    /// See ``OpenSettings/keepsLength``, ``OpenSettings/claims`` and ``OpenSettings/forbids``.
    var keepsLength: Bool
    var claims: UsePermissions
    var forbids: UsePermissions
    /// `discard` gives space back.
    var discardUnmaps: Bool
    var engine: RequestEngine
    /// Where the file has to lie, where an image names it.
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

    /// Takes the keys that it knows out of `options`.
    ///
    /// - Throws: `invalidArgument` for a value that makes no sense, `unsupported` for one that Platter lacks.
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

    /// Takes the largest number of requests that are handed to the kernel at once. Each is handed over alone,
    /// so every limit holds.
    private static func takeBatching(_ options: inout OptionTree) throws(BlockError) {
        _ = try options.takeNumber("aio-max-batch")
    }

    /// Takes what concerns only the moment when a live migration hands an image over, which never comes here.
    private static func takeMigration(_ options: inout OptionTree) throws(BlockError) {
        _ = try options.takeFlag("drop-cache")
        _ = try options.takeFlag("x-check-cache-dropped")
    }
}
