import BlockCore

/// The tables of an open image: their parts in memory, and the times at which those are written to the file.
///
/// Not thread-safe: the lock of its ``Session`` guards it. Runs, grants and links are those of
/// ``FormatDriver``, which defines them.
protocol SessionState: FlushableTables {
    /// Whether the files are open read-only at the moment.
    var isReadOnly: Bool { get set }
    /// The size of the disk in bytes.
    var virtualSize: Int { get }
    /// The backing file that the image names.
    var backing: BackingReference? { get }
    /// Whether the node's ranges (``FormatDriver/writeGranularity``) may be smaller than the units of a
    /// grant, so that two requests may fill the same unit.
    static var unitsOverlap: Bool { get }
    /// The first units that a request on `guest` may fill; used only when ``unitsOverlap`` is set.
    func units(around guest: Range<Int>) -> Range<Int>

    /// The run at `offset`; see ``FormatDriver/extent(at:limit:)``.
    mutating func run(at offset: Int, limit: Int) throws(BlockError) -> Extent
    /// See ``FormatDriver/grant(_:over:)``.
    mutating func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant
    /// Links a grant unit by unit, and removes each linked unit from `grant`, so that after a failure the
    /// rest can be given back.
    ///
    /// - Throws: `noSpace`, `io`, `corrupt`.
    mutating func link(_ grant: inout WriteGrant) throws(BlockError)
    /// Takes back space without a reference. Also called for a failed write to space that was linked before.
    mutating func giveBack(_ grant: WriteGrant)
    /// See ``Clearing/clear(_:_:over:)``.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep

    /// Checks whether the image can be written to, before the files are reopened for writing.
    ///
    /// - Throws: `unsupported`, `corrupt` or `readOnly`, with the reason for which it cannot.
    func checkWritable() throws(BlockError)
    /// Reads the tables as far as writing needs them. Called before the first change, and after each
    /// reopening.
    ///
    /// - Throws: `corrupt` when writing could destroy data that can still be read.
    mutating func prepareForWriting() throws(BlockError)
    /// Drops the unwritten changes after ``prepareForWriting()`` failed.
    mutating func abandonChanges()
    /// Makes all changes durable, data before the entries that refer to it.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func commit() throws(BlockError)
    /// Commits all changes, and brings the file to the state of a closed image. Does nothing when read-only.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func finish() throws(BlockError)
    /// Closes the files that are not children of the node.
    ///
    /// - Throws: `io`.
    mutating func closeFiles() throws(BlockError)
    /// Whether the tables are those of a snapshot instead of the present disk.
    var showsSnapshot: Bool { get }
}

extension SessionState {
    var backing: BackingReference? { nil }
    var showsSnapshot: Bool { false }
    static var unitsOverlap: Bool { false }
    func units(around guest: Range<Int>) -> Range<Int> { guest }
    /// For formats whose driver implements clearing itself.
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
protocol SessionFormat: Clearing, Rereading {
    associatedtype State: SessionState
    var session: Session<State> { get }
}

extension SessionFormat {
    public var virtualSize: Int { session.virtualSize }
    public var backing: BackingReference? { session.backing }

    /// - Throws: `io`, `corrupt`, `unsupported`.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try session.withLock { (state) throws(BlockError) in try state.run(at: offset, limit: limit) }
    }

    /// - Throws: `noSpace`, `io`, `corrupt`, `unsupported`, `readOnly`.
    public func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        try session.begin(guest) { (state) throws(BlockError) in
            try state.grant(guest, over: backingEnd)
        }
    }

    /// - Throws: `noSpace`, `io`, `corrupt`.
    public func link(_ grant: WriteGrant) throws(BlockError) { try session.link(grant) }
    public func giveBack(_ grant: WriteGrant) { session.giveBack(grant) }

    public var zeroGranularity: Int { writeGranularity }
    public var discardGranularity: Int { writeGranularity }

    /// - Throws: `noSpace`, `io`, `corrupt`, `unsupported`, `readOnly`.
    public func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        try session.step(range) { (state) throws(BlockError) in
            try state.clear(range, mode, over: backingEnd)
        }
    }

    /// - Throws: `io`, `noSpace`.
    public func flush() throws(BlockError) { try session.flush() }
    /// - Throws: `io`, `noSpace`.
    public func flushToSystem() throws(BlockError) { try session.flushToSystem() }

    /// - Throws: `corrupt` when the unit of the image is another one now; `unsupported` for a snapshot.
    public func takeTables(of fresh: any FormatDriver) throws(BlockError) {
        guard let fresh = fresh as? Self, fresh.writeGranularity == writeGranularity else {
            throw BlockError(.corrupt, "The image has another layout now; open it again")
        }
        try session.takeTables(of: fresh.session)
    }

    /// - Throws: `io`, `noSpace`: the first failure.
    public func close() throws(BlockError) { try session.close() }
    /// - Throws: `io`, `noSpace` when becoming read-only; otherwise the errors of `checkWritable()`.
    public func willReopen(readOnly: Bool) throws(BlockError) { try session.willReopen(readOnly: readOnly) }
    /// - Throws: `corrupt`, `unsupported`, `limit`, `io`: the reason for which the image cannot be written
    ///   to.
    public func didReopen(readOnly: Bool) throws(BlockError) { try session.didReopen(readOnly: readOnly) }
}
