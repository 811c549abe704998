import BlockCore

extension ParallelsDriver: LegacyWriting {}
extension QedDriver: LegacyWriting {}
extension QcowDriver: LegacyWriting {}
extension Qcow2Driver: LegacyWriting {}

/// The metadata of an image between opening and closing: what of it is in memory, and when the file gets it.
///
/// Not thread-safe: the driver's lock guards it.
protocol LegacySessionState: FlushableTables {
    /// Whether the file takes no changes now.
    var isReadOnly: Bool { get set }
    /// Whether no request is under way that has space without an entry that refers to it.
    var isAtRest: Bool { get }

    /// Learns what writing needs to know. Called before the first change.
    ///
    /// - Throws: `corrupt` where writing could destroy what can still be read.
    mutating func prepareForWriting() throws(BlockError)

    /// Makes all that was written durable, data before what refers to them.
    mutating func commit() throws(BlockError)

    /// Commits what there is, and leaves the file as a closed image is. Does nothing when read-only.
    mutating func finish() throws(BlockError)
}

/// A driver that keeps its metadata in a ``LegacySessionState`` behind one lock.
protocol LegacySessionFormat: FormatDriver {
    associatedtype State: LegacySessionState
    var state: Monitor<State> { get }

    /// Called with the lock held when the image takes changes from now on, or no more.
    func modeChanged(_ state: State)
}

extension LegacySessionFormat {
    func modeChanged(_ state: State) {}

    /// Runs `body` when the tables are at rest.
    func exclusively<Result>(
        _ body: (inout State) throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        try state.wait(until: { $0.isAtRest }) { (state) throws(BlockError) in
            try state.finishWrites()
            return try body(&state)
        }
    }

    public func flush() throws(BlockError) { try state.flushTables() }

    public func close() throws(BlockError) {
        try exclusively { (state) throws(BlockError) in try state.finish() }
    }

    public func willReopen(readOnly: Bool) throws(BlockError) {
        guard readOnly else { return }
        try exclusively { (state) throws(BlockError) in
            try state.finish()
            state.isReadOnly = true
            modeChanged(state)
        }
    }

    public func didReopen(readOnly: Bool) throws(BlockError) {
        guard !readOnly else { return }
        try exclusively { (state) throws(BlockError) in
            state.isReadOnly = false
            do throws(BlockError) { try state.prepareForWriting() } catch {
                state.isReadOnly = true
                throw error
            }
            modeChanged(state)
        }
    }
}
