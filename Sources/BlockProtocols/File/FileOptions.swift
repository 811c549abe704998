import BlockCore

/// Create options of files.
extension CreateOptionKey {
    /// Whether copy-on-write is turned off for the file (btrfs).
    public static let nocow = CreateOptionKey("nocow")
    /// The bytes that the file system allocates at once (XFS); 0 for no hint.
    public static let extentSizeHint = CreateOptionKey("extent_size_hint")
}
