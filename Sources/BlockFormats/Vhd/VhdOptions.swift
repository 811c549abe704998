import BlockCore

/// Create options of VHD.
extension CreateOptionKey {
    public static let forceSize = CreateOptionKey("force_size")
    public static let azure = CreateOptionKey("azure")
}
