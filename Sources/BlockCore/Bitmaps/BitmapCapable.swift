/// A bitmap that an image keeps.
public struct BitmapInfo: Sendable, Equatable {
    public var name: String
    /// How many bytes of the disk one bit stands for.
    public var granularity: Int
    /// Whether writes are recorded in it.
    public var isEnabled: Bool
    /// Whether its bits cannot be relied on: it was not stored after the last writes, somebody wrote without
    /// keeping it, or it is damaged. It can only be removed.
    public var isInconsistent: Bool

    public init(name: String, granularity: Int, isEnabled: Bool, isInconsistent: Bool) {
        self.name = name
        self.granularity = granularity
        self.isEnabled = isEnabled
        self.isInconsistent = isInconsistent
    }
}

/// Keeps dirty bitmaps inside the image, which record what is written from session to session.
///
/// Changes are made in memory. They are in the file, durable, once the image was closed or reopened
/// read-only; a crash before leaves each bitmap as it was, or inconsistent, but never wrong without saying
/// so. The node calls the changing ones when no other request is under way.
public protocol BitmapCapable: FormatDriver {
    /// Why this image cannot hold bitmaps, as far as its format's version goes; `nil` when it can.
    var bitmapObstacle: String? { get }
    /// The bitmaps, in the order of the image.
    func bitmaps() throws(BlockError) -> [BitmapInfo]
    /// A copy of the bits of a bitmap as they are now.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one.
    func bitmap(named name: String) throws(BlockError) -> DirtyBitmap

    /// Adds a clean bitmap.
    ///
    /// - Parameter granularity: in bytes; `nil` for what suits the image.
    /// - Throws: `exists`, `invalidArgument`, `limit`, `unsupported`.
    func addBitmap(_ name: String, granularity: Int?, isEnabled: Bool) throws(BlockError)
    /// Removes a bitmap, also an inconsistent one.
    func removeBitmap(_ name: String) throws(BlockError)
    /// Unmarks everything in a bitmap.
    func clearBitmap(_ name: String) throws(BlockError)
    /// Starts or stops recording.
    func setBitmap(_ name: String, isEnabled: Bool) throws(BlockError)
    /// Marks in a bitmap what `source` marks, of any granularity and a disk of the same size.
    func mergeBitmap(_ source: DirtyBitmap, into name: String) throws(BlockError)

    /// Whether ``recordChange(in:)`` has anything to do. Asked before every write, so it must cost nothing.
    var recordsChanges: Bool { get }
    /// Marks a range in every enabled bitmap, before its bytes change.
    ///
    /// - Throws: when a bitmap cannot be read or be marked as in use; nothing may be written then.
    func recordChange(in range: Range<Int>) throws(BlockError)
}
