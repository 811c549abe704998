/// The place of the first part of a write: space in a file, given by a format's tables.
///
/// Taken under the format's lock, filled without it, and ended under it again by exactly one of
/// ``FormatDriver/link(_:)`` and ``FormatDriver/giveBack(_:)``. Offsets are in bytes. A value; a driver may
/// shorten it while it links.
public struct WriteGrant: Sendable {
    /// The bytes that complete the units of a grant around the written bytes.
    public enum Rest: Sendable, Equatable {
        /// Zeroes, even over a backing node.
        case zero
        /// Unallocated in this layer: the backing node's bytes, or zeroes.
        case below
        /// The guest's old bytes, of this layer or of the backing node.
        case old
        /// The guest's old bytes, but only of runs that are unallocated in this layer; its own bytes are in
        /// place.
        case missing
        /// Nothing: the bytes in the file are already right, or are never read.
        case keep
    }

    /// The way in which the bytes are written to the file.
    public enum Form: Sendable, Equatable {
        /// The node writes them to ``file``.
        case plain
        /// The driver encodes and writes any part of them (``FormatDriver/storeEncoded(_:for:at:)``).
        case encrypted
        /// The driver encodes and writes the whole units in one call, of at most 16 MiB.
        case wholeUnits
    }

    /// The guest bytes that this part stores.
    ///
    /// Begins where the write begins, and is not empty.
    public var guest: Range<Int>
    /// The guest bytes for which there is space: those of ``guest`` and the rest of their units.
    public var units: Range<Int>
    /// The node of the file that holds the space.
    public var file: BlockNode
    /// The offset in ``file`` at which ``units`` begin.
    public var hostOffset: Int
    /// The form in which the bytes are stored.
    public var form: Form
    /// The rest of the units before and behind ``guest``.
    public var head: Rest
    /// The rest of the units behind ``guest``.
    public var tail: Rest
    /// Whether this space was never written, so that it reads as zeroes, also behind the end of the file.
    public var isVirgin: Bool
    /// Whether no table refers to the space yet: it is given back unless it is linked.
    public var isNew: Bool
    /// A number of the driver's own, for linking or giving back.
    public var tag: Int

    /// A grant for guest bytes that are stored at `hostOffset` already.
    public init(inPlace guest: Range<Int>, at hostOffset: Int, in file: BlockNode, tag: Int = 0) {
        self.guest = guest
        units = guest
        self.file = file
        self.hostOffset = hostOffset
        form = .plain
        (head, tail) = (.keep, .keep)
        (isVirgin, isNew) = (false, false)
        self.tag = tag
    }

    /// A grant of new space, at `hostOffset`, for whole `units` around `guest`.
    ///
    /// - Parameter rest: the rest of the units, before and behind.
    public init(
        new guest: Range<Int>, units: Range<Int>, at hostOffset: Int, in file: BlockNode, rest: Rest,
        tag: Int = 0
    ) {
        self.init(inPlace: guest, at: hostOffset, in: file, tag: tag)
        self.units = units
        (head, tail) = (rest, rest)
        isNew = true
    }

    /// The offset in ``file`` for a guest byte of ``units``.
    public func hostOffset(of guest: Int) -> Int { hostOffset + guest - units.lowerBound }
    /// The space in ``file``.
    public var place: Range<Int> { hostOffset..<hostOffset + units.count }
}

/// The purpose of clearing a range.
public enum ClearMode: Sendable, Equatable {
    /// The range reads as zeroes afterwards. With `keepsSpace`, stored bytes keep their space.
    case zero(keepsSpace: Bool)
    /// The space is given back; if the format can mark it, the range reads as zeroes.
    case discard

    /// The flags for zeroing the range in the file.
    public var flags: ZeroFlags { self == .zero(keepsSpace: true) ? [] : .mayUnmap }
}

/// The step that clears the first run of a range, chosen by a format.
public struct ClearStep: Sendable {
    /// The rest of the step, for the node to do.
    public enum Action: Sendable {
        /// Nothing: the tables mark the run as cleared, or need no change.
        case done
        /// The node writes zeroes to the grant's bytes and then links it.
        case zero(WriteGrant)
        /// The node discards the grant's bytes in the file and then links it; the file decides how they read
        /// afterwards.
        case discard(WriteGrant)
        /// The format can only store zeroes as data. Nothing was changed, and a discard does nothing.
        case store
    }

    /// The length of the run, in bytes from the start of the range; at least 1.
    public var length: Int
    /// The rest of the step, for the node to do.
    public var action: Action

    /// A step for the first `length` bytes of the range.
    public init(_ action: Action, length: Int) {
        self.action = action
        self.length = length
    }
}
