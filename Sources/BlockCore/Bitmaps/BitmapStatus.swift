/// One dirty bitmap of a live node, in memory or stored in its image.
public struct BitmapStatus: Sendable, Equatable {
    /// The name; `nil` for an anonymous one.
    public var name: String?
    /// The bytes of the disk for each bit.
    public var granularity: Int
    /// The marked bytes, in whole granules.
    public var dirtyBytes: Int
    /// Whether changes are recorded.
    public var isRecording: Bool
    /// Whether a job uses it, so that nobody else can change it.
    public var isBusy: Bool
    /// Whether it is stored in the image.
    public var isPersistent: Bool
    /// Whether its bits are unreliable: it can only be removed.
    public var isInconsistent: Bool

    /// A status with all of its values.
    public init(
        name: String?, granularity: Int, dirtyBytes: Int, isRecording: Bool, isBusy: Bool,
        isPersistent: Bool, isInconsistent: Bool
    ) {
        self.name = name
        self.granularity = granularity
        self.dirtyBytes = dirtyBytes
        self.isRecording = isRecording
        self.isBusy = isBusy
        self.isPersistent = isPersistent
        self.isInconsistent = isInconsistent
    }
}
