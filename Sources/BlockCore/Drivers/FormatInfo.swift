/// A piece of format-specific information, in the order in which it is shown.
public indirect enum InfoValue: Sendable, Equatable {
    case text(String)
    case number(Int)
    case flag(Bool)
    case list([InfoValue])
    case object([InfoField])
}

/// A named piece of information. `key` is in the JSON spelling: `refcount-bits`.
public struct InfoField: Sendable, Equatable {
    public var key: String
    public var value: InfoValue

    public init(_ key: String, _ value: InfoValue) {
        self.key = key
        self.value = value
    }
}

/// What a format tells of an open image.
public struct FormatInfo: Sendable {
    /// The cluster size in bytes, where the format has one.
    public var clusterSizeBytes: Int?
    /// Whether the contents are encrypted.
    public var isEncrypted: Bool
    /// Whether the image was not closed cleanly.
    public var isDirty: Bool
    /// Shown under "Format specific information"; `nil` where the format has none.
    public var specific: [InfoField]?
    /// Where saved machine state starts, in bytes; `nil` where the format keeps none.
    public var vmStateOffset: Int?

    public init(
        clusterSizeBytes: Int? = nil, isEncrypted: Bool = false, isDirty: Bool = false,
        specific: [InfoField]? = nil, vmStateOffset: Int? = nil
    ) {
        self.clusterSizeBytes = clusterSizeBytes
        self.isEncrypted = isEncrypted
        self.isDirty = isDirty
        self.specific = specific
        self.vmStateOffset = vmStateOffset
    }
}
