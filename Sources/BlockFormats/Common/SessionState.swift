import BlockCore

/// The tables of an image between opening and closing: what of them is in memory, and when the file gets it.
///
/// Not thread-safe: the lock of its ``Session`` guards it. The answers about runs, grants and links are those
/// of ``FormatDriver``, which says what they mean.
protocol SessionState: FlushableTables {
    /// Whether the file takes no changes now.
    var isReadOnly: Bool { get set }
    /// The size of the disk in bytes.
    var virtualSize: Int { get }
    /// The backing file that the image names.
    var backing: BackingReference? { get }
    /// Whether the node's ranges (``FormatDriver/writeGranularity``) may be smaller than the units of a
    /// grant, so that two requests may fill the same unit.
    static var unitsOverlap: Bool { get }
    /// The first units that a request on `guest` may fill; asked where ``unitsOverlap``.
    func units(around guest: Range<Int>) -> Range<Int>

    /// Where the bytes at `offset` are; see ``FormatDriver/extent(at:limit:)``.
    mutating func run(at offset: Int, limit: Int) throws(BlockError) -> Extent
    /// See ``FormatDriver/grant(_:over:)``.
    mutating func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant
    /// Refers to what was granted, unit by unit: takes off `grant` what it has linked, so that after a
    /// failure the rest can be given back.
    mutating func link(_ grant: inout WriteGrant) throws(BlockError)
    /// Takes back what nothing refers to. Also called for bytes in place that could not be written.
    mutating func giveBack(_ grant: WriteGrant)
    /// See ``Clearing/clear(_:_:over:)``.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep

    /// Looks, before the files are reopened for writing, whether they can be.
    ///
    /// - Throws: what stands in the way.
    func checkWritable() throws(BlockError)
    /// Learns what writing needs to know. Called before the first change, and after each reopening.
    ///
    /// - Throws: `corrupt` where writing could destroy what can still be read.
    mutating func prepareForWriting() throws(BlockError)
    /// Forgets what could not be written, after ``prepareForWriting()`` failed.
    mutating func abandonChanges()
    /// Makes all that was written durable, data before what refers to them.
    mutating func commit() throws(BlockError)
    /// Commits what there is, and leaves the file as a closed image is. Does nothing when read-only.
    mutating func finish() throws(BlockError)
    /// Closes files that are no children of the node.
    mutating func closeFiles() throws(BlockError)
}

extension SessionState {
    var backing: BackingReference? { nil }
    static var unitsOverlap: Bool { false }
    func units(around guest: Range<Int>) -> Range<Int> { guest }
    /// For formats whose driver clears by itself.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        ClearStep(.store, length: range.count)
    }
    func checkWritable() throws(BlockError) {}
    mutating func abandonChanges() {}
    mutating func closeFiles() throws(BlockError) {}
}

/// A driver whose tables are in a ``Session``.
protocol SessionFormat: Clearing {
    associatedtype State: SessionState
    var session: Session<State> { get }
}

extension SessionFormat {
    public var virtualSize: Int { session.virtualSize }
    public var backing: BackingReference? { session.backing }

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try session.withLock { (state) throws(BlockError) in try state.run(at: offset, limit: limit) }
    }

    public func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        try session.begin(guest) { (state) throws(BlockError) in
            try state.grant(guest, over: backingEnd)
        }
    }

    public func link(_ grant: WriteGrant) throws(BlockError) { try session.link(grant) }
    public func giveBack(_ grant: WriteGrant) { session.giveBack(grant) }

    public var zeroGranularity: Int { writeGranularity }
    public var discardGranularity: Int { writeGranularity }

    public func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        try session.step(range) { (state) throws(BlockError) in
            try state.clear(range, mode, over: backingEnd)
        }
    }

    public func flush() throws(BlockError) { try session.flush() }
    public func close() throws(BlockError) { try session.close() }
    public func willReopen(readOnly: Bool) throws(BlockError) { try session.willReopen(readOnly: readOnly) }
    public func didReopen(readOnly: Bool) throws(BlockError) { try session.didReopen(readOnly: readOnly) }
}
