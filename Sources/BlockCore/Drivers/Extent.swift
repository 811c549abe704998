/// A run of bytes with one status: the answer to "where are these bytes?".
///
/// An immutable value. Lengths and offsets are in bytes.
public struct Extent: Sendable, Equatable {
    /// Where the bytes of a run are.
    public enum Status: Sendable, Equatable {
        /// Plain bytes, contiguous from this host offset in the child ``Extent/child``.
        case data(hostOffset: Int)
        /// Reads as zeroes. A host offset says that space is allocated behind it.
        case zero(hostOffset: Int?)
        /// Not in this layer: the backing node has it, or it reads as zeroes.
        case unallocated
        /// Compressed or encrypted in this layer: only the driver can read it.
        case encoded(compressed: Bool)
    }

    public var status: Status
    /// How many bytes, from the offset that was asked for. At least 1 and at most the limit asked for.
    public var length: Int
    /// Which of the driver's storage children ``Status/data(hostOffset:)`` refers to; 0 is `file`.
    public var child: Int
    /// Where space in ``child`` is kept for bytes that are ``Status/unallocated``; `nil` for none.
    public var reservedOffset: Int?

    public init(_ status: Status, length: Int, child: Int = 0, reservedOffset: Int? = nil) {
        self.status = status
        self.length = length
        self.child = child
        self.reservedOffset = reservedOffset
    }
}

/// What one run of a whole backing chain holds: the answer of ``BlockNode/status(at:limit:above:)``.
public struct ChainStatus: Sendable {
    /// How many bytes, from the offset that was asked for.
    public var length: Int
    /// Known to read as zeroes.
    public var isZero: Bool
    /// Bytes are stored for it (they may still all be zero).
    public var isData: Bool
    /// Some layer of the chain has an entry for it, or is what makes it zero past a short backing file.
    public var isPresent: Bool
    /// Zero because it lies past the end of the backing file, with no entry for it in the layer at ``depth``.
    public var isPastBacking = false
    /// Stored behind the end of a file that is cut short: reading fails.
    public var isLost = false
    /// Stored compressed.
    public var isCompressed: Bool
    /// Where in ``file`` the bytes start, where they are stored plainly, or space is kept for them.
    public var hostOffset: Int?
    /// 0 for the node itself, 1 for its backing node, and so on.
    public var depth: Int
    /// The file that holds the bytes at ``hostOffset``.
    public var holder: BlockNode?
    /// The name of ``holder``.
    public var file: String? { holder?.filename }

    public init(
        length: Int, isZero: Bool, isData: Bool, isPresent: Bool, isCompressed: Bool = false,
        hostOffset: Int? = nil, depth: Int
    ) {
        self.length = length
        self.isZero = isZero
        self.isData = isData
        self.isPresent = isPresent
        self.isCompressed = isCompressed
        self.hostOffset = hostOffset
        self.depth = depth
    }

    /// Whether both differ in nothing but where they start and how long they are, and follow each other.
    public func continues(into next: ChainStatus) -> Bool {
        guard isZero == next.isZero, isData == next.isData, isPresent == next.isPresent,
            isPastBacking == next.isPastBacking, isLost == next.isLost, isCompressed == next.isCompressed,
            depth == next.depth, holder === next.holder
        else { return false }
        switch (hostOffset, next.hostOffset) {
        case (nil, nil): return true
        case (let mine?, let other?): return mine + length == other
        default: return false
        }
    }
}
