import BlockCore

/// Create options of files.
extension CreateOptionKey {
    public static let nocow = CreateOptionKey("nocow")
    public static let extentSizeHint = CreateOptionKey("extent_size_hint")
}
