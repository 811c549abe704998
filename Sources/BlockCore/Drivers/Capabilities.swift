/// Abilities of some formats, found through ``AbilityKnowing``. A format without an ability has no stub for
/// it.

/// Makes new images.
public protocol Creatable: FormatDriver {
    /// The options of `create`, in the order in which they are listed.
    static var createOptions: [CreateOption] { get }
    /// Makes an empty image. `options` has only declared keys, with their defaults.
    ///
    /// - Throws: `invalidArgument`, `unsupported`, `exists`, `denied`, `noSpace`, `limit`, `io`.
    static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError)
    /// Whether the protocol may reserve the space of files that are made with these options. Not called for
    /// formats that declare an option `preallocation`.
    ///
    /// - Throws: `invalidArgument` for invalid options.
    static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool
}

extension Creatable {
    /// - Throws: nothing by default.
    public static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool { false }
}

/// Calculates the size of an image before it is made.
public protocol Measurable: Creatable {
    /// - Parameter source: the disk with the data to store; `nil` for an empty disk of `virtualSize` bytes.
    /// - Throws: `invalidArgument`, `unsupported`, `limit`; `io` and `corrupt` for `source`.
    static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize
}

/// The file size of an image before it is made, in bytes.
public struct MeasuredSize: Sendable, Equatable {
    /// With the present data.
    public var required: Int
    /// With every unit allocated.
    public var fullyAllocated: Int
    /// The size of the source's bitmaps; `nil` when the format or the source has none.
    public var bitmaps: Int?

    /// Sizes in bytes, without bitmaps.
    public init(required: Int, fullyAllocated: Int) {
        self.required = required
        self.fullyAllocated = fullyAllocated
    }

    /// Tables of `fixed` bytes and, behind them, `data` bytes now or `full` bytes when the disk is full.
    ///
    /// - Throws: `limit` for a size of more than `Int.max` bytes.
    public init(fixed: Int, data: Int, full: Int) throws(BlockError) {
        let (required, tooLong) = fixed.addingReportingOverflow(data)
        let (fullyAllocated, muchTooLong) = fixed.addingReportingOverflow(full)
        guard !tooLong, !muchTooLong else { throw BlockError(.limit, "The image size is too large") }
        self.init(required: required, fullyAllocated: fullyAllocated)
    }
}

/// Changes the reference to the backing file, and nothing else.
public protocol Rebasable: FormatDriver {
    /// Makes the image refer to `backing`; `nil` removes the reference. Durable on return.
    ///
    /// - Throws: `readOnly`, `unsupported`, `invalidArgument`, `limit`, `noSpace`, `io`.
    func changeBacking(to backing: BackingReference?) throws(BlockError)
}

/// Stores the identity of its backing file, so that another or a changed file is found out.
public protocol BackingChecking: FormatDriver {
    /// Checks that the backing node, just opened, is the one that the image was made over.
    ///
    /// - Throws: `corrupt` when it is another one or has changed since; `io`.
    func checkBacking(_ backing: BlockNode) throws(BlockError)
}

/// Has an identity by which overlays of the same format know it.
public protocol ParentIdentifying: FormatDriver {
    /// The present identity, in the format's own encoding.
    var parentIdentity: [UInt8] { get }
    /// The identity after the next change of the contents; the same when changes give no new one.
    func nextParentIdentity() -> [UInt8]
}

extension ParentIdentifying {
    public func nextParentIdentity() -> [UInt8] { parentIdentity }
}

extension BlockNode {
    /// The identity by which an overlay of the format `name` knows this node; `nil` for an image of another
    /// format, and for no image.
    public func parentIdentity(of name: String) -> [UInt8]? { identifying(name)?.parentIdentity }

    /// The same after the next change of the contents.
    public func nextParentIdentity(of name: String) -> [UInt8]? { identifying(name)?.nextParentIdentity() }

    private func identifying(_ name: String) -> (any ParentIdentifying)? {
        let driver = unfiltered.format?.asParentIdentifying
        return driver.flatMap { type(of: $0).name == name ? $0 : nil }
    }
}

/// Stores in the image the identity of its own contents and that of its backing file's contents.
///
/// The contents are the bytes of the guest's disk. Their first change in a session gives them a new identity.
/// Other metadata, repairs and copies of bytes that the backing file showed change no contents.
///
/// Order of changing a backing file so that the overlay's contents stay the same; the overlay opens after a
/// crash between any two steps:
///
/// 1. ``announceIdentity(of:)`` of the overlay: it accepts the backing file by either identity;
/// 2. ``renewIdentity()`` of the backing file;
/// 3. ``adoptIdentity(of:)`` of the overlay: it accepts the backing file by the new identity alone.
public protocol ContentIdentifying: BackingChecking {
    /// Accepts `backing`, an image of the same format, by its present identity and by the next one. Durable
    /// on return.
    ///
    /// - Throws: `unsupported` for another format; `limit` without room for it; `readOnly`, `noSpace`, `io`.
    func announceIdentity(of backing: BlockNode) throws(BlockError)
    /// Gives the contents their next identity, as their first change would. Durable on return.
    ///
    /// - Throws: `readOnly`, `noSpace`, `io`.
    func renewIdentity() throws(BlockError)
    /// Accepts `backing` by its present identity alone. Durable on return.
    ///
    /// - Throws: `unsupported` for another format; `readOnly`, `noSpace`, `io`.
    func adoptIdentity(of backing: BlockNode) throws(BlockError)
    /// Whether writes keep the identity: set by a job that leaves all bytes of the disk unchanged. No other
    /// writer may write meanwhile.
    func keepIdentity(_ isKept: Bool)
}

/// Changes the virtual size.
public protocol Resizable: FormatDriver {
    /// Changes the size of the disk to `virtualSize` bytes. Durable on return. Added space reads as zeroes,
    /// also after a crash in between, unless ``FormatDriver/unwrittenReadsAsZero`` is `false`: old bytes of a
    /// larger disk are cleared, and bytes of a longer backing file are hidden, before the size changes.
    ///
    /// - Throws: `unsupported`, `invalidArgument`, `readOnly`, `limit`, `noSpace`, `io`, `corrupt`.
    func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError)
}

/// Stores units compressed.
public protocol CompressedWriting: FormatDriver {
    /// The size and alignment of compressed writes, in bytes; the last one of the disk may be shorter.
    var compressedUnitBytes: Int { get }
    /// Compresses one unit into `output`, which is as large as the unit. Thread-safe; uses no metadata.
    /// - Returns: the compressed size in bytes; `nil` when it is not smaller than the unit, or when the image
    ///   stores this unit uncompressed.
    /// - Throws: `limit` when the compressor has no memory; `unsupported` for an image without compressed
    ///   units.
    func compress(_ unit: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int?
    /// Stores `payload`, the result of ``compress(_:into:)``, as the unit at `offset`.
    ///
    /// - Throws: `readOnly`, `noSpace`, `limit`, `io`, `corrupt`.
    func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError)
    /// Whether this image compresses all writes; a copy then compresses on many threads.
    var compressesAlways: Bool { get }
    /// Checks that a new image with these options can be filled unit by unit, compressed or not.
    ///
    /// - Throws: `unsupported` if it cannot.
    static func checkCompression(_ options: CreateOptions) throws(BlockError)
}

extension CompressedWriting {
    public var compressesAlways: Bool { false }
    /// - Throws: nothing by default.
    public static func checkCompression(_ options: CreateOptions) throws(BlockError) {}
}

/// Can write a whole image from front to back, for example to a pipe.
public protocol StreamWriting: CompressedWriting, Creatable {
    /// Whether an image with these options is written from front to back.
    static func isStream(_ options: CreateOptions) -> Bool
    /// Begins a new image on `file`, to which bytes are only appended.
    ///
    /// The driver accepts writes of whole units, compressed or plain, in ascending order; units left out are
    /// zero. Nothing can be read. Until ``finishStream()`` the file is no image.
    ///
    /// - Throws: `invalidArgument`, `unsupported`, `limit`, `noSpace`, `io`.
    static func beginStream(
        _ options: CreateOptions, in context: CreateContext, on file: BlockNode
    ) throws(BlockError) -> Self
    /// Writes the end of the image. No write follows.
    ///
    /// - Throws: `noSpace`, `limit`, `io`.
    func finishStream() throws(BlockError)
}

/// Makes ranges read as zeroes, or gives their space back, without storing zeroes as data.
public protocol Clearing: FormatDriver {
    /// The alignment of ranges to zero, in bytes; the end of the disk is aligned too.
    var zeroGranularity: Int { get }
    /// The alignment of ranges to discard, in bytes; the end of the disk is aligned too.
    var discardGranularity: Int { get }
    /// Whether every zeroed range gets a zero entry in this layer, even without a backing file: it then stays
    /// zero over any later backing file.
    var marksZeroes: Bool { get }
    /// Clears the first run of `range`, or returns the writes that clearing needs.
    ///
    /// - Parameter backingEnd: the end of the backing node's bytes, as an offset of this disk.
    /// - Throws: `readOnly`, `noSpace`, `io`, `corrupt`.
    func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep
}

extension Clearing {
    public var marksZeroes: Bool { false }
}

/// Can store guest data by sharing space with another file (reflinks): its plain grants of whole units need
/// no written bytes.
public protocol SpaceSharing: FormatDriver {
    /// The child that holds guest data as it is (``Extent/child``); `nil` when this image encodes all data,
    /// as an encrypted one does.
    var sharingChild: Int? { get }
}

/// Makes all units of this layer unallocated, so that the backing node shows through.
public protocol Emptying: FormatDriver {
    /// Makes every unit unallocated. Durable on return; after a crash each unit is either unchanged or
    /// unallocated. Snapshots inside the image keep their units.
    ///
    /// - Throws: `unsupported`, `readOnly`, `noSpace`, `io`, `corrupt`.
    func makeEmpty() throws(BlockError)
}

/// Keeps tables in memory that another program may have changed in the file.
public protocol Rereading: FormatDriver {
    /// Replaces the tables in memory by those of `fresh`, a driver of the same format that was just opened
    /// read-only on the same file, and which is not used afterwards. No request is under way.
    ///
    /// - Throws: `corrupt` when the image has another layout now; `invalidArgument` for a writable image;
    ///   `unsupported` for one that shows a snapshot.
    func takeTables(of fresh: any FormatDriver) throws(BlockError)
}

/// A snapshot inside an image.
public struct SnapshotInfo: Sendable, Equatable {
    /// The id, unique in the image.
    ///
    /// Most programs number snapshots from 1.
    public var id: String
    /// The user's name, which need not be unique.
    public var name: String
    /// The size of the saved machine state, in bytes.
    public var vmStateSizeBytes: Int
    /// The time when it was taken: seconds since 1970, UTC, and nanoseconds of the second.
    public var dateSeconds: Int
    /// The nanoseconds of the second ``dateSeconds``.
    public var dateNanoseconds: Int
    /// The running time of the machine until then, in nanoseconds.
    public var vmClockNanoseconds: Int
    /// The number of instructions that the machine had run; `nil` if it was not recorded.
    public var instructionCount: Int?
    /// The size of the disk then, in bytes; `nil` if it was not recorded.
    public var virtualSize: Int?

    /// A snapshot of these values; an empty id lets the format choose one.
    public init(
        id: String, name: String, vmStateSizeBytes: Int = 0, dateSeconds: Int = 0, dateNanoseconds: Int = 0,
        vmClockNanoseconds: Int = 0, instructionCount: Int? = nil, virtualSize: Int? = nil
    ) {
        self.id = id
        self.name = name
        self.vmStateSizeBytes = vmStateSizeBytes
        self.dateSeconds = dateSeconds
        self.dateNanoseconds = dateNanoseconds
        self.vmClockNanoseconds = vmClockNanoseconds
        self.instructionCount = instructionCount
        self.virtualSize = virtualSize
    }
}

/// Stores snapshots inside the image.
///
/// All changes are durable on return.
public protocol SnapshotCapable: FormatDriver {
    /// The snapshots in the order of the image's table.
    ///
    /// - Throws: `corrupt`, `io`.
    func snapshots() throws(BlockError) -> [SnapshotInfo]
    /// Takes a snapshot of the present disk; the driver chooses `info.id` if it is empty.
    ///
    /// - Throws: `unsupported`, `limit`, `noSpace`, `io`, `corrupt`.
    func createSnapshot(_ info: SnapshotInfo) throws(BlockError)
    /// Makes the disk that of the snapshot with this id or, if no snapshot has that id, with this name.
    ///
    /// - Throws: `notFound`, `unsupported`, `noSpace`, `io`, `corrupt`.
    func applySnapshot(_ idOrName: String) throws(BlockError)
    /// Deletes the first snapshot of this name; ids do not count.
    ///
    /// - Throws: `notFound`, `unsupported`, `noSpace`, `io`, `corrupt`.
    func deleteSnapshot(named name: String) throws(BlockError)
    /// Makes all later reads those of the snapshot instead of the present disk. The node must be read-only.
    ///
    /// - Throws: `notFound`, `unsupported`, `invalidArgument`, `io`, `corrupt`.
    func selectSnapshot(id: String?, name: String?) throws(BlockError)
}

/// Stores a machine's saved state beside the disk: bytes that the guest never sees, with offsets from 0.
///
/// A new snapshot takes the state saved since the image was opened or since the last snapshot; if its
/// ``SnapshotInfo/vmStateSizeBytes`` is 0, it becomes the size of that state. The state then belongs to the
/// snapshot alone: applying or selecting the snapshot brings it back.
public protocol VMStateCapable: SnapshotCapable {
    /// Stores `bytes` at `offset` of the state, which grows as needed. Durable after
    /// ``FormatDriver/flush()``.
    ///
    /// - Throws: `readOnly`; `limit` for an offset that the format cannot address; `io`, `noSpace`,
    ///   `corrupt`.
    func saveVMState(_ bytes: RawSpan, at offset: Int, guest: GuestAccess) throws(BlockError)
    /// Fills `buffer` from `offset` of the state; bytes that were not saved are zeroes.
    ///
    /// - Throws: `io`, `corrupt`.
    func loadVMState(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError)
}

/// The counts of a check: its findings and its repairs.
public struct CheckResult: Sendable, Equatable {
    /// Findings that harm data, or could.
    public var corruptions = 0
    /// Findings of space to which no table refers.
    public var leaks = 0
    /// Parts that could not be checked.
    public var checkErrors = 0
    /// The corruptions that were repaired.
    public var corruptionsFixed = 0
    /// The leaks that were freed.
    public var leaksFixed = 0
    /// Units of the disk: all (0 for an unknown number), allocated, out of order in the file, compressed.
    public var totalClusters = 0
    /// Units of the disk that have space in the file.
    public var allocatedClusters = 0
    /// Allocated units that do not follow the unit before them in the file.
    public var fragmentedClusters = 0
    /// Allocated units that are stored compressed.
    public var compressedClusters = 0
    /// The end of the used part of the file, in bytes; `nil` when it is unknown.
    public var imageEndOffset: Int?

    /// Counts of zero.
    public init() {}
}

/// The findings that a check repairs.
public enum RepairMode: Sendable, Equatable {
    case none
    case leaks
    case all
}

/// Checks and repairs its own tables.
public protocol Checkable: FormatDriver {
    /// - Parameter report: gets one line of text per finding.
    /// - Throws: `unsupported`, `limit`, `corrupt`, `readOnly` or `io` when the check cannot run at all;
    ///   findings are in the result.
    func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult
}
