/// Byte counts in binary units, for limits and buffer sizes.
extension Int {
    /// `count` KiB in bytes.
    public static func kib(_ count: Int) -> Int { count * 1024 }

    /// `count` MiB in bytes.
    public static func mib(_ count: Int) -> Int { count * 1024 * 1024 }

    /// `count` GiB in bytes.
    public static func gib(_ count: Int) -> Int { count * 1024 * 1024 * 1024 }
}
