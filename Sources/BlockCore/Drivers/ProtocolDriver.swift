/// The space that a new or grown file gets at once.
public enum Preallocation: String, Sendable, CaseIterable {
    /// None: the file has holes, and units are allocated when written.
    case off
    /// The format's tables are complete; the data is sparse.
    case metadata
    /// Space is reserved without writing it.
    case falloc
    /// Space is reserved by writing zeroes.
    case full
}

/// Options for zeroing a range.
public struct ZeroFlags: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// The space behind the range may be given back.
    public static let mayUnmap = ZeroFlags(rawValue: 1)
    /// Fail with kind `unsupported` rather than write zeroes as data.
    public static let noFallback = ZeroFlags(rawValue: 2)
}

/// Storage of bytes: a file, a device, memory, a socket.
///
/// All offsets and lengths are in bytes. Every call blocks its thread and may come from any thread at any
/// time; calls on ranges that do not overlap do not affect each other. Reads past the end give zeroes; writes
/// past the end make the file longer, with zeroes between.
public protocol ProtocolDriver: AnyObject, Sendable {
    /// The name in `driver=` options and in `info`, such as `file`.
    static var name: String { get }

    /// The file's length now.
    ///
    /// - Throws: `io`.
    func length() throws(BlockError) -> Int
    /// The bytes that the file takes up on the host's disk; `nil` for storage without such a number.
    func allocatedSize() -> Int?
    /// Equal for two drivers exactly when both access the same storage; `nil` when that is unknown.
    var identity: String? { get }
    /// The current path of the file, if that is not its name: that of a new image that is not yet complete.
    var place: String? { get }
    /// The alignment of offsets and lengths that the medium needs, in bytes; 1 for no alignment.
    var requestAlignment: Int { get }
    /// Whether new space past the end reads as zeroes without writing them.
    var zeroInitialised: Bool { get }

    /// Fills all of `buffer` from `offset`; bytes past the end are zeroes.
    ///
    /// - Throws: `io`; `noSpace` for an offset that overflows.
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError)
    /// Stores all of `bytes` at `offset`.
    ///
    /// - Throws: `io`, `noSpace`.
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError)
    /// Makes the range read as zeroes by the first way that works: give back, allocate as zeroes, write
    /// zeroes.
    ///
    /// - Throws: `io`, `noSpace`; `unsupported` with ``ZeroFlags/noFallback``.
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError)
    /// Gives the range's space back if the medium can. The bytes are unspecified afterwards.
    ///
    /// - Throws: `io`; `noSpace` for an offset that overflows.
    func discard(at offset: Int, count: Int) throws(BlockError)
    /// Changes the length to `length` bytes; new space reads as zeroes.
    ///
    /// - Throws: `io`, `noSpace`, `unsupported`, `invalidArgument`.
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError)
    /// On return, everything written before the call is durable.
    ///
    /// - Throws: `io`, `noSpace`.
    func flush() throws(BlockError)
    /// Asks the system to begin storing the written bytes, if it can: a later flush is then faster.
    func startWriteback()
    /// The run at `offset`: ``Extent/Status/data(hostOffset:)`` with the same offset, or a hole as
    /// ``Extent/Status/zero(hostOffset:)``. `offset` is inside the file, `limit` > 0.
    ///
    /// - Throws: `io`; `noSpace` for an offset that overflows.
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent
    /// Switches between read-only and read-write, and takes the locks of the new mode.
    ///
    /// - Throws: `busy`, `notFound`, `denied`, `unsupported`, `io`; the driver keeps its old mode then.
    func reopen(readOnly: Bool) throws(BlockError)
    /// Frees the resources. No call follows.
    func close()

    /// Copies `count` bytes from another driver without passing them through memory.
    /// - Returns: how many bytes were copied. When these are fewer than `count` (also 0), the caller copies
    ///   the rest.
    /// - Throws: `io`, `noSpace`.
    func copyRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Int

    /// Whether ranges can share their space with ranges of `source` until one of them is written to.
    /// Changes nothing.
    func sharesSpace(with source: any ProtocolDriver) -> Bool
    /// Makes `count` bytes at `offset` those of `source` at `sourceOffset` by sharing their space. All three
    /// are multiples of ``BlockNode/sharingAlignment``.
    /// - Returns: whether that was done; if not, the bytes at `offset` are either the old or the new ones.
    /// - Throws: only errors that every write would throw: `io` for a read-only file.
    func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool

    /// The driver itself, if it conforms to that protocol. Not to be implemented.
    var asUseDeclaring: (any UseDeclaring)? { get }
    var asEventListener: (any MetadataEventListener)? { get }
    var asRemovable: (any RemovableMedium)? { get }
    var asSCSIPassing: (any SCSIPassing)? { get }
}

extension ProtocolDriver {
    public func allocatedSize() -> Int? { nil }
    public var identity: String? { nil }
    public var place: String? { nil }
    public var requestAlignment: Int { 1 }
    public var zeroInitialised: Bool { true }
    /// - Throws: nothing by default.
    public func copyRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Int { 0 }
    public func startWriteback() {}
    public func sharesSpace(with source: any ProtocolDriver) -> Bool { false }
    /// - Throws: nothing by default.
    public func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool { false }
}

/// Storage that shows other programs its use by locks.
public protocol UseDeclaring: ProtocolDriver {
    /// Takes the locks that ``OpenSettings/declaresUseLater`` put off.
    ///
    /// - Parameter toleratingWriters: whether a read-only open may share the file with writers.
    /// - Throws: `busy` when another program uses the file in a way that excludes this use; `io`.
    func declareUse(toleratingWriters: Bool) throws(BlockError)
}

/// The calls that open and make files of a protocol; one value per protocol in the ``DriverRegistry``.
public struct ProtocolEntry: Sendable {
    /// Makes a file.
    ///
    /// Throws as ``CreateContext/createFile(named:size:preallocation:)``.
    public typealias Create =
        @Sendable (_ filename: String, _ options: CreateOptions) throws(BlockError) -> Void

    /// Returns the size of a file without opening it; `nil` for anything but a regular file.
    ///
    /// Throws `denied` outside the confinement, `notFound`, `io`.
    public typealias Look =
        @Sendable (_ filename: String, _ confinement: FileConfinement?) throws(BlockError) -> FileSize?
    /// Makes a file and opens it for writing.
    ///
    /// Throws `denied` outside the confinement, `exists`, `noSpace`, `io`.
    public typealias Make =
        @Sendable (_ filename: String, _ confinement: FileConfinement?) throws(BlockError)
        -> any ProtocolDriver

    /// Returns the naming of a node; `options` are those that ``open`` gets.
    public typealias Naming = @Sendable (_ filename: String, _ options: OptionTree) -> NodeNaming

    /// The driver's name, such as `file`.
    public var name: String
    /// The prefixes of file names (`nbd`, `http`) that mean this protocol.
    public var schemes: [String]
    /// Its create options.
    public var createOptions: [CreateOption]
    /// Whether opening needs a file name; if not, options alone may name the storage.
    public var needsFilename: Bool
    /// Opens an existing file.
    ///
    /// `options` has the remaining `file.` options; the caller reports those that are left over. Throws
    /// `notFound`, `invalidArgument`, `denied`, `busy`, `readOnly`, `unsupported`, `io`.
    public var open:
        @Sendable (_ filename: String, _ options: inout OptionTree, _ settings: OpenSettings)
            throws(BlockError) -> any ProtocolDriver
    /// Makes a file, or empties an existing one, with the size and preallocation in `options`.
    public var create: Create?
    /// Whether ``open`` obeys ``OpenSettings/confinement``.
    ///
    /// If not, the opener checks names by their text.
    public var confines: Bool
    /// Finds the size of a file without opening it; `nil` for a protocol that cannot.
    public var look: Look?
    /// Makes a further file of an image, or takes an existing empty one; `nil` for a protocol that cannot.
    public var make: Make?
    /// The naming of its nodes, if it is not just the file name.
    private var ownNaming: Naming?

    /// A protocol of these calls; `nil` for a call means that the protocol has no such ability.
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

    /// The naming of a node that ``open`` opens by this name and these options.
    public func naming(_ filename: String, _ options: OptionTree) -> NodeNaming {
        ownNaming?(filename, options) ?? NodeNaming(plain: filename, driver: name)
    }
}
