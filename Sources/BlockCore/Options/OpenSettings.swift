/// The use of the host's page cache.
public enum CacheMode: String, Sendable, CaseIterable {
    /// Through the page cache; `flush` is obeyed.
    case writeback
    /// Through the page cache; every write is durable when it returns.
    case writethrough
    /// Past the page cache; `flush` is obeyed.
    case none
    /// Past the page cache; every write is durable when it returns.
    case directsync
    /// Through the page cache; `flush` does nothing.
    case unsafe

    /// Whether the page cache is bypassed (O_DIRECT).
    public var isDirect: Bool { self == .none || self == .directsync }
    /// Whether every write is followed by a flush.
    public var isWriteThrough: Bool { self == .writethrough || self == .directsync }

    /// The same mode past the page cache, or through it.
    public func with(direct: Bool) -> CacheMode {
        if self == .unsafe || direct == isDirect { return self }
        if direct { return isWriteThrough ? .directsync : .none }
        return isWriteThrough ? .writethrough : .writeback
    }

    /// The mode of that name; `off` is a synonym of `none`.
    public init?(name: String) { self.init(rawValue: name == "off" ? "none" : name) }
}

/// The way in which requests reach a file of the host.
public enum RequestEngine: String, Sendable, CaseIterable {
    /// System calls on the thread of the request.
    case threads
    /// Linux AIO; only past the page cache.
    case native
    /// Linux's io_uring.
    case uring = "io_uring"
}

/// The settings for opening an image.
public struct OpenSettings: Sendable {
    /// Open read-only.
    public var readOnly: Bool
    /// How writes are made durable and whether the page cache is used.
    public var cache: CacheMode
    /// Allow other programs to write at the same time (`-U`).
    public var forceShare: Bool
    /// Do not open the backing file that the image names.
    public var withoutBacking: Bool
    /// Open even a dirty or damaged image, and repair nothing: the caller will check it.
    public var forCheck: Bool
    /// Pass discards on to the file.
    public var discardUnmaps: Bool
    /// For `info`: open no file but the image itself, even those that the format needs for reading.
    public var metadataOnly: Bool
    /// Leave encrypted images locked: enough for their sizes and tables.
    public var withoutKeys = false
    /// Take no locks on the file yet: they depend on the format, which is not yet known.
    ///
    /// See ``UseDeclaring``.
    public var declaresUseLater = false
    /// Exclude writers even for a format that may share the file with them: a copy must be of one moment.
    public var excludesWriters = false
    /// Whether it holds the bytes of another image, as a file does: writes past its end make it longer.
    public var holdsImage = false
    /// Whether writing keeps the length of the file: other programs may then write and resize at the same
    /// time, if the format may share the file with writers.
    public var keepsLength = false
    /// The permissions claimed for this file besides those of its mode, and those denied to other programs.
    public var claims: UsePermissions = []
    /// The permissions denied to other programs besides those that the mode denies.
    public var forbids: UsePermissions = []
    /// The way in which requests reach the files of the host.
    public var engine = RequestEngine.threads
    /// Store bytes read from the backing file in the image itself, which must be writable.
    public var copyOnRead = false
    /// The limits on the place of this file, when an image names it; not on further files.
    public var confinement: FileConfinement?
    /// The treatment of written data that is all zeroes, in this node only, not in its file and backing file.
    public var detectZeroes = ZeroDetection.off

    /// The settings for a read-only image unless stated otherwise.
    public init(
        readOnly: Bool = true, cache: CacheMode = .writeback, forceShare: Bool = false,
        withoutBacking: Bool = false, forCheck: Bool = false, discardUnmaps: Bool = true,
        metadataOnly: Bool = false
    ) {
        self.readOnly = readOnly
        self.cache = cache
        self.forceShare = forceShare
        self.withoutBacking = withoutBacking
        self.forCheck = forCheck
        self.discardUnmaps = discardUnmaps
        self.metadataOnly = metadataOnly
    }
}
