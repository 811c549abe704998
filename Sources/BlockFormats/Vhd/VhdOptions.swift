import BlockCore

/// Create options of VHD.
extension CreateOptionKey {
    /// Whether the size is kept, instead of the next one with a geometry.
    public static let forceSize = CreateOptionKey("force_size")
    /// Whether the image is as Azure requires: fixed, in whole MiB.
    public static let azure = CreateOptionKey("azure")
}
