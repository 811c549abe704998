/// A piece of format-specific information, in the order in which it is shown.
public indirect enum InfoValue: Sendable, Equatable {
    case text(String)
    case number(Int)
    case flag(Bool)
    case list([InfoValue])
    case object([InfoField])
}

/// A named piece of information.
///
/// `key` is in the JSON spelling: `refcount-bits`.
public struct InfoField: Sendable, Equatable {
    /// The key, in the JSON spelling.
    public var key: String
    /// The value, in a form for JSON and for people.
    public var value: InfoValue

    /// A field of that key and value.
    public init(_ key: String, _ value: InfoValue) {
        self.key = key
        self.value = value
    }
}

/// A format's information about an open image.
public struct FormatInfo: Sendable {
    /// The unit (cluster) size in bytes; `nil` for a format without one.
    public var clusterSizeBytes: Int?
    /// Whether the contents are encrypted.
    public var isEncrypted: Bool
    /// Whether the image was not closed cleanly.
    public var isDirty: Bool
    /// The fields under "Format specific information"; `nil` for a format without any.
    public var specific: [InfoField]?
    /// The offset of saved machine state, in bytes; `nil` for a format without any.
    public var vmStateOffset: Int?

    /// Information of these values; sizes and offsets are in bytes.
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
