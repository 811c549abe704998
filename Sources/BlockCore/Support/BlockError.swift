/// The one error type of the block layer.
///
/// Code decides on ``kind``; people read ``message``; nothing compares messages.
/// Thread-safe: an immutable value.
public struct BlockError: Error, Sendable, CustomStringConvertible {
    /// The kind of failure, for code to decide on.
    public enum Kind: Sendable, Equatable {
        /// A system call failed, ``BlockError/errno`` has its reason; or a request is outside the disk.
        case io
        /// The bytes of the image break its format's rules.
        case corrupt
        /// The image or the caller needs a feature that this format or this build does not have.
        case unsupported
        /// The bytes are not an image of the requested format.
        case wrongFormat
        /// The caller passed an invalid value.
        case invalidArgument
        /// A file or a snapshot of that name does not exist.
        case notFound
        /// The file already exists and must not.
        case exists
        /// No space left, or a size limit was reached.
        case noSpace
        /// The node was opened read-only.
        case readOnly
        /// The ``OpenPolicy`` refused a file that an image names.
        case denied
        /// Another process, job or node holds the image.
        case busy
        /// The work was cancelled.
        case cancelled
        /// A stated limit was exceeded.
        case limit
    }

    /// The kind of the failure: what code decides by.
    public var kind: Kind
    /// One sentence for people, without a full stop and without the program's name.
    ///
    /// Names in it may come from an image: characters that could end the line or control a terminal are shown
    /// as escapes.
    public var message: String {
        didSet { message = PrintableText.shown(message) }
    }
    /// The C `errno` of a failed system call; else `nil`.
    public var errno: Int32?
    /// The path of the file concerned, if there is one.
    public var path: String?
    /// The offset concerned, in bytes of the file at ``path``.
    public var offset: Int?
    /// The error that caused this one.
    public var underlying: (any Error)?
    /// Further lines for people, printed after the message; free of control characters but line feeds.
    public var hint: String? {
        didSet { hint = hint.map { PrintableText.shown($0, keepsLines: true) } }
    }
    /// How many bytes, at least, are missing at the end of the file at ``path``; `nil` unless it is cut
    /// short.
    public var missingBytes: Int?

    /// An error whose message and hint are made printable.
    public init(
        _ kind: Kind, _ message: String, errno: Int32? = nil, path: String? = nil, offset: Int? = nil,
        underlying: (any Error)? = nil, hint: String? = nil
    ) {
        self.kind = kind
        self.message = PrintableText.shown(message)
        self.errno = errno
        self.path = path
        self.offset = offset
        self.underlying = underlying
        self.hint = hint.map { PrintableText.shown($0, keepsLines: true) }
    }

    public var description: String { message }

    /// The same error with `prefix: ` in front of its message.
    public func prefixed(_ prefix: String) -> BlockError {
        var copy = self
        copy.message = "\(prefix): \(message)"
        return copy
    }

    /// The same error with ``path`` set to `path`, unless it already names a file.
    public func concerning(_ path: String) -> BlockError {
        var copy = self
        copy.path = copy.path ?? path
        return copy
    }
}
