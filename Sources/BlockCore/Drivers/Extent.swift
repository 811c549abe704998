/// A run of bytes with one status.
///
/// An immutable value. Lengths and offsets are in bytes.
public struct Extent: Sendable, Equatable {
    /// The place of a run's bytes.
    public enum Status: Sendable, Equatable {
        /// Plain bytes, contiguous from this host offset in the child ``Extent/child``.
        case data(hostOffset: Int)
        /// Reads as zeroes. A host offset is that of space allocated for the run.
        case zero(hostOffset: Int?)
        /// Not in this layer: the bytes are the backing node's, or zeroes without one.
        case unallocated
        /// Compressed or encrypted in this layer: only the driver can read it.
        case encoded(compressed: Bool)
    }

    /// The status of all bytes of the run.
    public var status: Status
    /// The length in bytes, from the requested offset on.
    ///
    /// At least 1 and at most the requested limit.
    public var length: Int
    /// The index of the storage child that holds ``Status/data(hostOffset:)``; 0 is `file`.
    public var child: Int
    /// The offset in ``child`` of space that is reserved for ``Status/unallocated`` bytes; `nil` for none.
    public var reservedOffset: Int?

    /// A run of `length` bytes, at least 1.
    public init(_ status: Status, length: Int, child: Int = 0, reservedOffset: Int? = nil) {
        self.status = status
        self.length = length
        self.child = child
        self.reservedOffset = reservedOffset
    }
}

/// The status of one run of a whole backing chain: the result of
/// ``BlockNode/status(at:limit:above:isForMap:)``.
public struct ChainStatus: Sendable {
    /// The length in bytes, from the requested offset on.
    public var length: Int
    /// Whether it is known to read as zeroes.
    public var isZero: Bool
    /// Whether bytes are stored for it; they may still all be zero.
    public var isData: Bool
    /// Whether a layer of the chain has an entry for it, or makes it zero past the end of a short backing
    /// file.
    public var isPresent: Bool
    /// Whether it is zero because it is past the end of the backing file, without an entry in the layer at
    /// ``depth``.
    public var isPastBacking = false
    /// Whether it is stored behind the end of a file that is cut short: reading it fails.
    public var isLost = false
    /// Whether it is stored compressed.
    public var isCompressed: Bool
    /// The offset in ``file`` of bytes that are stored as they are, or of space reserved for them; `nil` for
    /// neither.
    public var hostOffset: Int?
    /// The layer that holds it: 0 for the node itself, 1 for its backing node, and so on.
    public var depth: Int
    /// The file that holds the bytes at ``hostOffset``.
    public var holder: BlockNode?
    /// The name of ``holder``.
    public var file: String? { holder?.filename }

    /// A run of `length` bytes without a holder.
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

    /// Whether `next` continues this run: both differ only in place and length, and are contiguous in the
    /// file.
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
