/// What a user of a file does with it, or lets others do meanwhile. The bits are QEMU's.
public struct UsePermissions: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// Reads what somebody wrote as a whole.
    public static let consistentRead = UsePermissions(rawValue: 1)
    public static let write = UsePermissions(rawValue: 2)
    /// Writes what reads the same afterwards.
    public static let writeUnchanged = UsePermissions(rawValue: 4)
    public static let resize = UsePermissions(rawValue: 8)

    /// What messages call the bits, from the lowest on.
    public static let names = ["consistent read", "write", "write unchanged", "resize"]

    /// The numbers of the bits that are set.
    public var bits: [Int] { Self.names.indices.filter { rawValue & 1 << $0 != 0 } }

    /// The permission that options call `name`, such as `consistent-read`.
    public init?(name: String) {
        let spaced = String(name.map { $0 == "-" ? " " : $0 })
        guard !name.contains(" "), let bit = Self.names.firstIndex(of: spaced) else { return nil }
        self.init(rawValue: 1 << bit)
    }
}
