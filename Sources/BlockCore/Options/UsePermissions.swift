/// The operations of one user of a file, or those that it allows to others at the same time.
///
/// The bits are QEMU's.
public struct UsePermissions: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// Reads data in a consistent state, not halfway through a change.
    public static let consistentRead = UsePermissions(rawValue: 1)
    public static let write = UsePermissions(rawValue: 2)
    /// Writes that leave the bytes of the file unchanged.
    public static let writeUnchanged = UsePermissions(rawValue: 4)
    public static let resize = UsePermissions(rawValue: 8)

    /// The names of the bits in messages, from the lowest on.
    public static let names = ["consistent read", "write", "write unchanged", "resize"]

    /// The numbers of the bits that are set.
    public var bits: [Int] { Self.names.indices.filter { rawValue & 1 << $0 != 0 } }

    /// The permission with that name in options, such as `consistent-read`.
    public init?(name: String) {
        let spaced = String(name.map { $0 == "-" ? " " : $0 })
        guard !name.contains(" "), let bit = Self.names.firstIndex(of: spaced) else { return nil }
        self.init(rawValue: 1 << bit)
    }
}
