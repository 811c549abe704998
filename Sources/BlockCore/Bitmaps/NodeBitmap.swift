import Synchronization

/// A dirty bitmap in memory: the parts of a node's disk that were changed since some moment.
///
/// ``BlockNode/addBitmap(named:granularity:isEnabled:)`` makes it. It follows every change of the disk, from
/// any thread, and the size of the disk; nothing of it is stored. While a job uses it, its bits are frozen
/// and the changes go to its *successor*, which the job's result merges back or puts in its place.
/// Thread-safe. Offsets, sizes and granularities are in bytes.
public final class NodeBitmap: ChangeObserver {
    /// The smallest granularity, in bytes.
    public static let minimumGranularity = 512
    /// The longest name, in bytes of UTF-8.
    public static let maximumNameBytes = 1023

    private struct State {
        var bits: DirtyBitmap
        /// Has the changes since the bits were frozen; `nil` while they are not.
        var successor: DirtyBitmap?
        var isEnabled: Bool
        var user: String?
        var isInconsistent = false
    }

    /// The name; `nil` for an anonymous bitmap, which only its holder knows.
    public let name: String?
    /// The bytes of the disk for each bit; a power of two.
    public let granularity: Int
    /// The bitmap stored in the image whose use by a job this one completes; `nil` for any other.
    let storedName: String?
    private let state: Mutex<State>

    init(
        name: String?, size: Int, granularity: Int, isEnabled: Bool, storedName: String? = nil
    ) throws(BlockError) {
        self.name = name
        self.granularity = granularity
        self.storedName = storedName
        state = Mutex(
            State(bits: try DirtyBitmap(size: size, granularity: granularity), isEnabled: isEnabled))
    }

    // MARK: What it has

    /// The marked bytes, in whole granules; without those of a successor.
    public var dirtyBytes: Int { state.withLock { $0.bits.dirtyCount } * granularity }
    /// Whether changes are recorded.
    public var isEnabled: Bool { state.withLock { $0.isEnabled } }
    /// The user that has frozen it; `nil` for none.
    public var user: String? { state.withLock { $0.user } }
    /// Whether its bits are unreliable, because it could not follow the size of the disk.
    ///
    /// It can only be removed.
    public var isInconsistent: Bool { state.withLock { $0.isInconsistent } }
    /// An independent copy of the bits.
    public var bits: DirtyBitmap { state.withLock { $0.bits.copy() } }

    /// The first run of marked bytes at or behind `offset`; `nil` for none.
    ///
    /// The bits may change between calls: ``bits`` stays as it is.
    public func nextRun(from offset: Int) -> Range<Int>? {
        state.withLock { $0.bits.nextRun(from: offset) }
    }

    // MARK: Changing it

    /// Starts or stops recording changes.
    ///
    /// - Throws: `busy` while a job uses it; `corrupt` for an inconsistent one.
    public func setEnabled(_ isEnabled: Bool) throws(BlockError) {
        try change { state throws(BlockError) in state.isEnabled = isEnabled }
    }

    /// Clears all bits.
    ///
    /// - Throws: `busy` while a job uses it; `corrupt` for an inconsistent one.
    public func clear() throws(BlockError) {
        try change { state throws(BlockError) in state.bits.clearAll() }
    }

    /// Marks all bytes that `source` marks.
    ///
    /// - Throws: `busy` while a job uses either; `corrupt` when either is inconsistent; `invalidArgument` for
    ///   a disk of another size; `limit` as ``DirtyBitmap/merge(_:)``.
    public func merge(_ source: NodeBitmap) throws(BlockError) {
        var bits: DirtyBitmap?
        try source.change { state throws(BlockError) in bits = state.bits.copy() }
        if let bits { try merge(bits) }
    }

    /// Marks all bytes that `bits` marks, such as those of a bitmap stored in an image.
    ///
    /// - Throws: as ``merge(_:)-(NodeBitmap)``.
    public func merge(_ bits: DirtyBitmap) throws(BlockError) {
        try change { state throws(BlockError) in try state.bits.merge(bits) }
    }

    /// Runs `body` unless a job uses the bitmap.
    private func change(_ body: (inout State) throws(BlockError) -> Void) throws(BlockError) {
        try state.withLock { state throws(BlockError) in
            try check(state)
            try body(&state)
        }
    }

    /// - Throws: `busy`, `corrupt`.
    private func check(_ state: State) throws(BlockError) {
        let shown = name ?? ""
        if let user = state.user {
            throw BlockError(
                .busy,
                "Bitmap '\(shown)' is currently in use by another operation and cannot be used: \(user)")
        }
        if state.isInconsistent {
            throw BlockError(.corrupt, "Bitmap '\(shown)' is inconsistent and cannot be used")
        }
    }

    func checkUsable() throws(BlockError) {
        try change { _ throws(BlockError) in }
    }

    // MARK: Successor

    /// Freezes the bits for `user`; changes go to a successor.
    ///
    /// Called while no request of the node is under way, if the bits have to be those of one moment.
    ///
    /// - Returns: a copy of the frozen bits.
    /// - Throws: `busy` while another user has it; `corrupt` for an inconsistent one.
    public func createSuccessor(for user: String) throws(BlockError) -> DirtyBitmap {
        try state.withLock { state throws(BlockError) in
            try check(state)
            state.successor = try DirtyBitmap(size: state.bits.size, granularity: granularity)
            state.user = user
            return state.bits.copy()
        }
    }

    /// Ends the freeze: the successor takes the place of the bits, joined by those of `rest`.
    ///
    /// - Throws: as ``DirtyBitmap/merge(_:)``: the bits are frozen still.
    public func abdicate(keeping rest: DirtyBitmap? = nil) throws(BlockError) {
        try state.withLock { state throws(BlockError) in
            guard let successor = state.successor else { return }
            if let rest { try successor.merge(rest) }
            state.bits = successor
            Self.thaw(&state)
        }
    }

    /// Ends the freeze: the successor's bits are merged back, so that nothing is forgotten.
    public func reclaim() {
        state.withLock { state in
            guard let successor = state.successor else { return }
            // Both have one granularity and follow one disk, so merging fails only after a failed resize.
            do throws(BlockError) { try state.bits.merge(successor) } catch { state.isInconsistent = true }
            Self.thaw(&state)
        }
    }

    private static func thaw(_ state: inout State) {
        state.successor = nil
        state.user = nil
    }

    // MARK: Following the disk

    /// Marks before the change: one that fails may have changed a part of the range.
    ///
    /// - Throws: nothing.
    public func willChange(_ range: Range<Int>) throws(BlockError) { mark(range) }

    /// Marks again after the change, in case the bits were cleared while it was under way.
    public func didChange(_ range: Range<Int>) { mark(range) }

    private func mark(_ range: Range<Int>) {
        state.withLock { state in
            if state.isEnabled { (state.successor ?? state.bits).set(range) }
        }
    }

    /// Follows the disk; added bytes are marked, as the disk may have had others there before it shrank.
    public func didResize(to size: Int) {
        state.withLock { state in
            let old = state.bits.size
            do throws(BlockError) {
                try state.bits.resize(to: size)
                try state.successor?.resize(to: size)
                if state.isEnabled, size > old { (state.successor ?? state.bits).set(old..<size) }
            } catch { state.isInconsistent = true }
        }
    }

    var status: BitmapStatus {
        state.withLock { state in
            BitmapStatus(
                name: name, granularity: granularity, dirtyBytes: state.bits.dirtyCount * granularity,
                isRecording: state.isEnabled && !state.isInconsistent, isBusy: state.user != nil,
                isPersistent: false, isInconsistent: state.isInconsistent)
        }
    }
}
