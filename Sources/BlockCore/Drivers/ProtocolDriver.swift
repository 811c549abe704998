/// How much space a new or grown file gets at once.
public enum Preallocation: String, Sendable, CaseIterable {
    /// None: holes, or clusters allocated when written.
    case off
    /// The format's tables are filled in; the data behind them is sparse.
    case metadata
    /// Space is reserved without writing it.
    case falloc
    /// Space is reserved by writing zeroes.
    case full
}

/// How to zero a range.
public struct ZeroFlags: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// The space behind the range may be given back.
    public static let mayUnmap = ZeroFlags(rawValue: 1)
    /// Fail with kind `unsupported` rather than write zeroes byte for byte.
    public static let noFallback = ZeroFlags(rawValue: 2)
}

/// Where bytes are really kept: a file, a device, memory, a socket.
///
/// All offsets and lengths are in bytes. Every call blocks its thread and may come from any thread at any
/// time; calls on ranges that do not overlap do not affect each other. Reads past the end give zeroes; writes
/// past the end make the file longer, with zeroes between.
public protocol ProtocolDriver: AnyObject, Sendable {
    /// The name in `driver=` options and in `info`, such as `file`.
    static var name: String { get }

    /// The file's length now.
    func length() throws(BlockError) -> Int
    /// Bytes really taken up on the disk, or `nil` where that means nothing.
    func allocatedSize() -> Int?
    /// Equal for two drivers exactly when both access the same storage; `nil` where that cannot be told.
    var identity: String? { get }
    /// Where the file is now, if that is not under its name: a new image that is not whole yet.
    var place: String? { get }
    /// The alignment that the medium wants for offsets and lengths: 1 where it does not matter.
    var requestAlignment: Int { get }
    /// Whether new space past the end reads as zeroes without writing them.
    var zeroInitialised: Bool { get }

    /// Fills all of `buffer` from `offset`.
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError)
    /// Stores all of `bytes` at `offset`.
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError)
    /// Makes the range read as zeroes: give back, allocate zeroed or write, the first that works.
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError)
    /// Gives the space back where it can; what it then reads as is not said.
    func discard(at offset: Int, count: Int) throws(BlockError)
    /// Changes the length; new space reads as zeroes.
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError)
    /// On return, everything written before the call is durable.
    func flush() throws(BlockError)
    /// Has the system begin to store what was written, where it has a way to: a later flush is faster then.
    func startWriteback()
    /// The run at `offset`: ``Extent/Status/data(hostOffset:)`` with the same offset, or a hole as
    /// ``Extent/Status/zero(hostOffset:)``. `offset` is inside the file, `limit` > 0.
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent
    /// Switches between read-only and read-write, with the locks that go with it.
    func reopen(readOnly: Bool) throws(BlockError)
    /// Gives the resources back. No call follows.
    func close()

    /// Copies `count` bytes from another driver without passing them through memory.
    /// - Returns: how many bytes were copied; fewer than `count` (also 0) where it cannot.
    func copyRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Int

    /// Whether ranges can share their space with ranges of `source` until one of them is written to.
    /// Changes nothing.
    func sharesSpace(with source: any ProtocolDriver) -> Bool
    /// Makes `count` bytes at `offset` those of `source` at `sourceOffset` by sharing their space. All three
    /// are multiples of ``BlockNode/sharingAlignment``.
    /// - Returns: whether that was done; where not, the bytes at `offset` are the old ones or the new ones.
    /// - Throws: only what every write would throw: `io` for a file that is read-only.
    func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool

    /// The driver itself, where it conforms to that protocol. Not to be implemented.
    var asUseDeclaring: (any UseDeclaring)? { get }
    var asEventListener: (any MetadataEventListener)? { get }
}

extension ProtocolDriver {
    public func allocatedSize() -> Int? { nil }
    public var identity: String? { nil }
    public var place: String? { nil }
    public var requestAlignment: Int { 1 }
    public var zeroInitialised: Bool { true }
    public func copyRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Int { 0 }
    public func startWriteback() {}
    public func sharesSpace(with source: any ProtocolDriver) -> Bool { false }
    public func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool { false }
}

/// Storage that tells other programs how it is used, by locks.
public protocol UseDeclaring: ProtocolDriver {
    /// Takes the locks that ``OpenSettings/declaresUseLater`` put off.
    ///
    /// - Parameter toleratingWriters: whether a reader bears with others writing meanwhile.
    /// - Throws: `busy` when others' use does not go with ours.
    func declareUse(toleratingWriters: Bool) throws(BlockError)
}

/// How a protocol driver opens and makes files; one value per protocol in the ``DriverRegistry``.
public struct ProtocolEntry: Sendable {
    /// Makes a file.
    public typealias Create =
        @Sendable (_ filename: String, _ options: CreateOptions) throws(BlockError) -> Void

    /// Tells how large a file is.
    public typealias Look =
        @Sendable (_ filename: String, _ confinement: FileConfinement?) throws(BlockError) -> FileSize?
    /// Makes a file and opens it for writing.
    public typealias Make =
        @Sendable (_ filename: String, _ confinement: FileConfinement?) throws(BlockError)
        -> any ProtocolDriver

    /// Tells what its nodes are called; `options` are those that ``open`` gets.
    public typealias Naming = @Sendable (_ filename: String, _ options: OptionTree) -> NodeNaming

    /// The driver's name, such as `file`.
    public var name: String
    /// The prefixes of file names (`nbd`, `http`) that mean this protocol.
    public var schemes: [String]
    /// The create options that it takes.
    public var createOptions: [CreateOption]
    /// Whether it opens nothing without a file name; when not, options alone may say what to open.
    public var needsFilename: Bool
    /// Opens an existing file. `options` holds what `file.` options remain; unknown ones the caller reports.
    public var open:
        @Sendable (_ filename: String, _ options: inout OptionTree, _ settings: OpenSettings)
            throws(BlockError) -> any ProtocolDriver
    /// Makes a file (truncating one that is there), of the size and preallocation in `options`.
    public var create: Create?
    /// Whether ``open`` keeps to ``OpenSettings/confinement``. Where not, names are judged by their text.
    public var confines: Bool
    /// How large a file is, without opening it for reading or writing; `nil` for what is no regular file.
    /// Throws `denied` for one elsewhere than wanted.
    public var look: Look?
    /// Makes a file that is not there yet, or takes an empty one, where an image may have one.
    public var make: Make?
    /// What its nodes are called, where that is not just the file name.
    private var ownNaming: Naming?

    public init(
        name: String, schemes: [String] = [], createOptions: [CreateOption] = [],
        needsFilename: Bool = true,
        open:
            @escaping @Sendable (String, inout OptionTree, OpenSettings) throws(BlockError)
            -> any ProtocolDriver,
        create: Create? = nil, confines: Bool = false, look: Look? = nil, make: Make? = nil,
        naming: Naming? = nil
    ) {
        ownNaming = naming
        self.name = name
        self.schemes = schemes
        self.createOptions = createOptions
        self.needsFilename = needsFilename
        self.open = open
        self.create = create
        self.confines = confines
        self.look = look
        self.make = make
    }

    /// What a node is called that ``open`` answers for this name and these options.
    public func naming(_ filename: String, _ options: OptionTree) -> NodeNaming {
        ownNaming?(filename, options) ?? NodeNaming(plain: filename, driver: name)
    }
}
