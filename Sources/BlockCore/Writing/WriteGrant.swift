/// Where the first part of a write goes, as a format's tables answer it.
///
/// Taken under the format's lock, filled without it, and ended under it again by exactly one of
/// ``FormatDriver/link(_:)`` and ``FormatDriver/giveBack(_:)``. Offsets are in bytes. An immutable value but
/// for what a driver takes off while it links.
public struct WriteGrant: Sendable {
    /// What completes the units of a grant around the bytes that are written.
    public enum Rest: Sendable, Equatable {
        /// Zeroes, whatever lies below.
        case zero
        /// Nothing of it is in this layer: what the backing node has, or zeroes.
        case below
        /// What the guest saw: this layer's bytes or the backing node's.
        case old
        /// What the guest saw, but only of the runs that this layer lacks; its own bytes are in place.
        case missing
        /// Nothing: what lies there is right, or nobody reads it.
        case keep
    }

    /// How the bytes get into the file.
    public enum Form: Sendable, Equatable {
        /// The node writes them to ``file``.
        case plain
        /// The driver encodes and writes any part of them (``FormatDriver/storeEncoded(_:for:at:)``).
        case encrypted
        /// The driver encodes and writes the whole units in one call, of at most 16 MiB.
        case wholeUnits
    }

    /// The guest bytes that this part stores. Begins where the write begins, and is not empty.
    public var guest: Range<Int>
    /// The guest bytes for which there is space: those of ``guest`` and what completes them.
    public var units: Range<Int>
    /// Where the bytes go.
    public var file: BlockNode
    /// Where ``units`` begin in ``file``.
    public var hostOffset: Int
    public var form: Form
    /// What comes before and behind ``guest`` in its units.
    public var head: Rest
    public var tail: Rest
    /// Whether the file has never had anything in this space, so that it reads as zeroes, also behind its
    /// end.
    public var isVirgin: Bool
    /// Whether the tables do not refer to the space yet: it is given back unless it is linked.
    public var isNew: Bool
    /// What the driver wants to know again when it links or gives back.
    public var tag: Int

    /// Bytes that the guest has already, at `hostOffset`.
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

    /// New space for whole `units` around `guest`, which begins at `hostOffset`.
    ///
    /// - Parameter rest: what completes the units, before and behind.
    public init(
        new guest: Range<Int>, units: Range<Int>, at hostOffset: Int, in file: BlockNode, rest: Rest,
        tag: Int = 0
    ) {
        self.init(inPlace: guest, at: hostOffset, in: file, tag: tag)
        self.units = units
        (head, tail) = (rest, rest)
        isNew = true
    }

    /// Where a guest byte of ``units`` goes in ``file``.
    public func hostOffset(of guest: Int) -> Int { hostOffset + guest - units.lowerBound }
    /// The space in ``file``.
    public var place: Range<Int> { hostOffset..<hostOffset + units.count }
}

/// What clearing a range is for.
public enum ClearMode: Sendable, Equatable {
    /// The range reads as zeroes afterwards. `keepsSpace` asks that what is stored keeps its space.
    case zero(keepsSpace: Bool)
    /// The space goes back; where the format can say so, the range reads as zeroes.
    case discard

    /// What a file may do with the space behind zeroes.
    public var flags: ZeroFlags { self == .zero(keepsSpace: true) ? [] : .mayUnmap }
}

/// How the first run of a range is cleared, as a format's tables answer it.
public struct ClearStep: Sendable {
    /// What the node has to do.
    public enum Action: Sendable {
        /// The tables have it, or nothing is to be done.
        case done
        /// The node writes zeroes to the grant's bytes and then links it.
        case zero(WriteGrant)
        /// The node gives the space of the grant's bytes back and then links it; what they read as afterwards
        /// is the file's matter.
        case discard(WriteGrant)
        /// The format has no way but zeroes stored as data. Nothing was changed; a discard leaves it so.
        case store
    }

    /// How many bytes from the start of the range; at least 1.
    public var length: Int
    public var action: Action

    public init(_ action: Action, length: Int) {
        self.action = action
        self.length = length
    }
}
