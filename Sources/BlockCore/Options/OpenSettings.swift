/// How the host's page cache is used.
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

    /// The mode of that name; `off` is another word for `none`.
    public init?(name: String) { self.init(rawValue: name == "off" ? "none" : name) }
}

/// How requests reach a file of the host.
public enum RequestEngine: String, Sendable, CaseIterable {
    /// System calls on the thread of the request.
    case threads
    /// Linux AIO; only past the page cache.
    case native
    /// Linux's io_uring.
    case uring = "io_uring"
}

/// How an image is opened.
public struct OpenSettings: Sendable {
    /// Without writing.
    public var readOnly: Bool
    public var cache: CacheMode
    /// Do not object to others writing at the same time (`-U`).
    public var forceShare: Bool
    /// Do not open the backing file that the image names.
    public var withoutBacking: Bool
    /// Open even what is dirty or damaged and repair nothing: somebody is going to check it.
    public var forCheck: Bool
    /// Pass discards on to the file.
    public var discardUnmaps: Bool
    /// For `info`: open no file but the image itself, even those that the format needs for reading.
    public var metadataOnly: Bool
    /// Leave encrypted images locked: only their sizes and structures are wanted.
    public var withoutKeys = false
    /// Take no locks on the file yet: the format, which decides on them, is still to be found. See
    /// ``UseDeclaring``.
    public var declaresUseLater = false
    /// Let nobody write meanwhile, even where the format would bear with it: a copy must be of one moment.
    public var excludesWriters = false
    /// It holds the bytes of another image, as a file does: what is written past its end makes it longer.
    public var holdsImage = false
    /// A file that is written keeps its length: where the format bears with others writing meanwhile, they
    /// may, and may change the length.
    public var keepsLength = false
    /// What is claimed of this file besides what the mode of opening needs, and what others must not do.
    public var claims: UsePermissions = []
    public var forbids: UsePermissions = []
    /// How requests reach the files of the host.
    public var engine = RequestEngine.threads
    /// What is read from the backing file is stored in the image itself, which must be writable.
    public var copyOnRead = false
    /// Where a file that an image names has to lie. Of this file only: nothing below it or beside it.
    public var confinement: FileConfinement?
    /// What becomes of data that is all zeroes. Of this node only, not of its file and backing file.
    public var detectZeroes = ZeroDetection.off

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
