/// What only some formats can do. It is asked for by ``AbilityKnowing``; nobody writes stubs.

/// Makes new images.
public protocol Creatable: FormatDriver {
    /// The options that `create` takes, in the order in which they are shown.
    static var createOptions: [CreateOption] { get }
    /// Makes an empty image. `options` holds only declared keys, with defaults filled in.
    static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError)
    /// Whether files that are made with these options take the protocol's ways of reserving space. Not asked
    /// of formats that declare an option `preallocation`.
    static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool
}

extension Creatable {
    public static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool { false }
}

/// Says in advance how large an image would be.
public protocol Measurable: Creatable {
    /// - Parameter source: the data to be stored, as runs; `nil` for an empty disk of the size in `options`.
    static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize
}

/// The file sizes that an image would have, in bytes.
public struct MeasuredSize: Sendable, Equatable {
    /// With the data that is there now.
    public var required: Int
    /// With every guest cluster allocated.
    public var fullyAllocated: Int
    /// Of the source's bitmaps; `nil` where the format or the source keeps none.
    public var bitmaps: Int?

    public init(required: Int, fullyAllocated: Int) {
        self.required = required
        self.fullyAllocated = fullyAllocated
    }

    /// Tables of `fixed` bytes, and behind them `data` bytes now or `full` bytes once all is written.
    ///
    /// - Throws: `limit` where the file would be longer than a file can be.
    public init(fixed: Int, data: Int, full: Int) throws(BlockError) {
        let (required, tooLong) = fixed.addingReportingOverflow(data)
        let (fullyAllocated, muchTooLong) = fixed.addingReportingOverflow(full)
        guard !tooLong, !muchTooLong else { throw BlockError(.limit, "The image size is too large") }
        self.init(required: required, fullyAllocated: fullyAllocated)
    }
}

/// Changes which backing file the image names, and nothing else.
public protocol Rebasable: FormatDriver {
    /// Durable on return. `nil` removes the reference.
    func changeBacking(to backing: BackingReference?) throws(BlockError)
}

/// States which image its backing file must be, and so can find that it is another one, or has changed.
public protocol BackingChecking: FormatDriver {
    /// Looks whether the backing node, just opened, is the one that the image was made over.
    ///
    /// - Throws: `corrupt` when it is another one, or has changed since.
    func checkBacking(_ backing: BlockNode) throws(BlockError)
}

/// Is known to images over it, of the same format, by an identity.
public protocol ParentIdentifying: FormatDriver {
    /// The identity in the format's own encoding, by which images over this one know it now.
    var parentIdentity: [UInt8] { get }
    /// The one that the next change of the contents gives it; the same where changes give no other.
    func nextParentIdentity() -> [UInt8]
}

extension ParentIdentifying {
    public func nextParentIdentity() -> [UInt8] { parentIdentity }
}

extension BlockNode {
    /// The identity by which an image of the format `name` knows this node as its backing file; `nil` where
    /// this is an image of another format, or no image.
    public func parentIdentity(of name: String) -> [UInt8]? { identifying(name)?.parentIdentity }

    /// The one that the next change of the contents gives it.
    public func nextParentIdentity(of name: String) -> [UInt8]? { identifying(name)?.nextParentIdentity() }

    private func identifying(_ name: String) -> (any ParentIdentifying)? {
        let driver = unfiltered.format?.asParentIdentifying
        return driver.flatMap { type(of: $0).name == name ? $0 : nil }
    }
}

/// Keeps in the image an identity of its contents, and of those of its backing file, which must agree.
///
/// The contents are what the disk reads as. Their first change in a session gives them a new identity; what
/// leaves them as they are (other metadata, repairs, copies of what a backing file showed) does not.
///
/// An overlay whose backing file is about to change, in a way that leaves the overlay's own contents as they
/// are, is told first, so that it opens whenever this is stopped:
///
/// 1. ``announceIdentity(of:)`` of the overlay: it takes the backing file by either identity;
/// 2. ``renewIdentity()`` of the backing file;
/// 3. ``adoptIdentity(of:)`` of the overlay: it takes the backing file by the new identity alone.
public protocol ContentIdentifying: BackingChecking {
    /// Accepts `backing`, an image of the same format, by the identity that it has and by the one that its
    /// next change gives it. Durable on return.
    ///
    /// - Throws: `unsupported` for another format; `limit` without room for it; what writing throws.
    func announceIdentity(of backing: BlockNode) throws(BlockError)
    /// Gives the contents their next identity, as their first change would. Durable on return.
    ///
    /// - Throws: what writing throws.
    func renewIdentity() throws(BlockError)
    /// Accepts `backing` by the identity that it has now, and by no other. Durable on return.
    ///
    /// - Throws: `unsupported` for another format; what writing throws.
    func adoptIdentity(of backing: BlockNode) throws(BlockError)
    /// Says that writes leave the contents as they are, or no longer: a job stores what the disk reads as
    /// anyway. Nobody else may write meanwhile.
    func keepIdentity(_ isKept: Bool)
}

/// Changes the virtual size.
public protocol Resizable: FormatDriver {
    /// Durable on return. Space that is added reads as zeroes (unless ``FormatDriver/unwrittenReadsAsZero``
    /// says that new space never does), also after a crash in between: what lay there
    /// of a larger disk is gone, and where `guest` has a backing file, that is hidden before the size
    /// changes.
    func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError)
}

/// Stores clusters compressed.
public protocol CompressedWriting: FormatDriver {
    /// Compressed writes are of exactly this many bytes, aligned to it, but for the end of the disk.
    var compressedUnitBytes: Int { get }
    /// Compresses one unit into `output` (as large as the unit). Thread-safe, touches no metadata.
    /// - Returns: the compressed size in bytes, or `nil` when it would not become smaller, or is stored
    ///   plainly in this image anyway.
    func compress(_ unit: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int?
    /// Stores what `compress` made as the unit at `offset`.
    func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError)
    /// Whether this image compresses whatever is written, so that it had better be done on many threads.
    var compressesAlways: Bool { get }
    /// Looks whether a new image with these options can be filled by units, compressed or not.
    ///
    /// - Throws: `unsupported` where it cannot.
    static func checkCompression(_ options: CreateOptions) throws(BlockError)
}

extension CompressedWriting {
    public var compressesAlways: Bool { false }
    public static func checkCompression(_ options: CreateOptions) throws(BlockError) {}
}

/// Can make a whole image from front to back, on a pipe for example.
public protocol StreamWriting: CompressedWriting, Creatable {
    /// Whether an image with these options is made that way.
    static func isStream(_ options: CreateOptions) -> Bool
    /// Begins a new image on `file`, to which bytes are only appended.
    ///
    /// The driver takes writes of whole compressed units, or plain writes of such units, in ascending order;
    /// what is left out is zero. Nothing can be read. Until ``finishStream()`` it is no image.
    static func beginStream(
        _ options: CreateOptions, in context: CreateContext, on file: BlockNode
    ) throws(BlockError) -> Self
    /// Writes what belongs at the end. No write follows.
    func finishStream() throws(BlockError)
}

/// Makes ranges read as zeroes, or gives their space back, without storing zeroes.
public protocol Clearing: FormatDriver {
    /// Ranges to be zeroed are multiples of this size, but for the end of the disk.
    var zeroGranularity: Int { get }
    /// Ranges to be discarded are multiples of this size, but for the end of the disk.
    var discardGranularity: Int { get }
    /// Whether every zeroed range gets an entry of this layer that says zero, also where nothing lies below:
    /// it then stays zero over whatever backing file the image gets later.
    var marksZeroes: Bool { get }
    /// Clears the first run of `range`, or says what it takes.
    ///
    /// - Parameter backingEnd: up to where something lies below this layer.
    /// - Throws: `readOnly`, `noSpace`, `io`, `corrupt`.
    func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep
}

extension Clearing {
    public var marksZeroes: Bool { false }
}

/// May store guest data by sharing the space of another file, as file systems with reflinks can: its plain
/// grants of whole units need no bytes that are written.
public protocol SpaceSharing: FormatDriver {
    /// Which of the storage children holds plain guest data (``Extent/child``); `nil` where this image keeps
    /// none, such as an encrypted one.
    var sharingChild: Int? { get }
}

/// Gives up everything that this layer holds, so that the backing node shows through.
public protocol Emptying: FormatDriver {
    /// Makes every cluster unallocated. Durable on return; killed on the way, each cluster is as before or
    /// unallocated. Snapshots inside the image keep theirs.
    func makeEmpty() throws(BlockError)
}

/// A snapshot inside an image.
public struct SnapshotInfo: Sendable, Equatable {
    public var id: String
    public var name: String
    /// Bytes of saved machine state.
    public var vmStateSizeBytes: Int
    /// When it was taken: seconds and nanoseconds since 1970, UTC.
    public var dateSeconds: Int
    public var dateNanoseconds: Int
    /// How long the machine had run, in nanoseconds.
    public var vmClockNanoseconds: Int
    /// Instructions the machine had run, where it was recorded.
    public var instructionCount: Int?
    /// The disk's size then, in bytes, where it was recorded.
    public var virtualSize: Int?

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

/// Keeps snapshots inside the image. All changes are durable on return.
public protocol SnapshotCapable: FormatDriver {
    /// The snapshots in the order of the image's table.
    func snapshots() throws(BlockError) -> [SnapshotInfo]
    /// Takes a snapshot now; `info.id` is chosen by the driver when empty.
    func createSnapshot(_ info: SnapshotInfo) throws(BlockError)
    /// Goes back to the snapshot with this id or name (id first); kind `notFound` when there is none.
    func applySnapshot(_ idOrName: String) throws(BlockError)
    /// Deletes the first snapshot of this name, whatever ids there are; kind `notFound` when there is none.
    func deleteSnapshot(named name: String) throws(BlockError)
    /// Reads from the snapshot instead of the current state from now on. The node must be read-only.
    func selectSnapshot(id: String?, name: String?) throws(BlockError)
}

/// Keeps a machine's saved state beside the disk: bytes that the guest never sees, counted from 0.
///
/// Snapshots take the state with them (``SnapshotInfo/vmStateSizeBytes``): one that is created while that is
/// 0 gets the size of what was saved since the image was opened or the last snapshot was taken. Once a
/// snapshot has state, it is gone from the current image; applying or selecting the snapshot brings it back.
public protocol VMStateCapable: SnapshotCapable {
    /// Stores `bytes` at `offset` of the state, which grows as needed. Durable after
    /// ``FormatDriver/flush()``.
    ///
    /// - Throws: `readOnly`; `limit` when the format cannot address that much; `io`, `noSpace`.
    func saveVMState(_ bytes: RawSpan, at offset: Int, guest: GuestAccess) throws(BlockError)
    /// Fills `buffer` from `offset` of the state; zeroes where nothing was saved.
    func loadVMState(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError)
}

/// What a check found and did.
public struct CheckResult: Sendable, Equatable {
    /// Inconsistencies that harm data or could.
    public var corruptions = 0
    /// Space that nothing refers to.
    public var leaks = 0
    /// Parts that could not be checked.
    public var checkErrors = 0
    public var corruptionsFixed = 0
    public var leaksFixed = 0
    /// Guest clusters: how many there are (0: not known), are allocated, out of order, compressed.
    public var totalClusters = 0
    public var allocatedClusters = 0
    public var fragmentedClusters = 0
    public var compressedClusters = 0
    /// Where the used part of the file ends, in bytes; `nil` when not known.
    public var imageEndOffset: Int?

    public init() {}
}

/// What a check may change.
public enum RepairMode: Sendable, Equatable {
    case none
    case leaks
    case all
}

/// Checks and repairs its own structure.
public protocol Checkable: FormatDriver {
    /// - Parameter report: gets one line for people per finding.
    /// - Throws: only when the check could not run at all; what it finds is in the result.
    func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult
}
