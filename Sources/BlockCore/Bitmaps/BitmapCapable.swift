/// A dirty bitmap stored in an image.
public struct BitmapInfo: Sendable, Equatable {
    public var name: String
    /// The bytes of the disk for each bit.
    public var granularity: Int
    /// Whether writes are recorded in it.
    public var isEnabled: Bool
    /// Whether its bits are unreliable: it was not stored after the last writes, another program wrote
    /// without recording them, or it is damaged.
    ///
    /// It can only be removed.
    public var isInconsistent: Bool

    /// Creates an entry of these values; `granularity` is in bytes.
    public init(name: String, granularity: Int, isEnabled: Bool, isInconsistent: Bool) {
        self.name = name
        self.granularity = granularity
        self.isEnabled = isEnabled
        self.isInconsistent = isInconsistent
    }
}

/// Stores dirty bitmaps inside the image, which record the written ranges from session to session.
///
/// Changes are made in memory. They are durable in the file once the image is closed or reopened read-only. A
/// crash before that leaves each bitmap unchanged or marked inconsistent, never silently wrong. The node
/// calls the changing functions when no other request is under way.
public protocol BitmapCapable: FormatDriver {
    /// The reason, in its format's version, why this image cannot store bitmaps; `nil` if it can.
    var bitmapObstacle: String? { get }
    /// The bitmaps, in the order of the image.
    ///
    /// - Throws: `corrupt`, `io`.
    func bitmaps() throws(BlockError) -> [BitmapInfo]
    /// A copy of the present bits of a bitmap.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one; `limit`, `io`.
    func bitmap(named name: String) throws(BlockError) -> DirtyBitmap

    /// Adds a clean bitmap.
    ///
    /// - Parameter granularity: the bytes of the disk for each bit; `nil` for the format's default.
    /// - Throws: `exists`, `invalidArgument`, `limit`, `unsupported`.
    func addBitmap(_ name: String, granularity: Int?, isEnabled: Bool) throws(BlockError)
    /// Removes a bitmap, also an inconsistent one.
    ///
    /// - Throws: `notFound`, `io`.
    func removeBitmap(_ name: String) throws(BlockError)
    /// Clears all bits of a bitmap.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one; `io`.
    func clearBitmap(_ name: String) throws(BlockError)
    /// Starts or stops recording writes in a bitmap.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one; `io`.
    func setBitmap(_ name: String, isEnabled: Bool) throws(BlockError)
    /// Marks all bytes in a bitmap that `source` marks. `source` may have any granularity, and is of a disk
    /// of the same size.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one; `invalidArgument` for another size; `limit`,
    ///   `io`.
    func mergeBitmap(_ source: DirtyBitmap, into name: String) throws(BlockError)
    /// Replaces all bits of a bitmap by those of `source`, which has its granularity, at once.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one; `invalidArgument` for another size or
    ///   granularity; `limit`, `io`. The bitmap keeps its bits then.
    func replaceBitmap(_ name: String, with source: DirtyBitmap) throws(BlockError)

    /// Whether ``recordChange(in:)`` would mark anything. Read before every write, so it must be cheap.
    var recordsChanges: Bool { get }
    /// Marks a range in every enabled bitmap, before its bytes change.
    ///
    /// - Throws: `corrupt`, `io`, `noSpace` when a bitmap cannot be read or be marked as in use; the caller
    ///   then must not write.
    func recordChange(in range: Range<Int>) throws(BlockError)
}
