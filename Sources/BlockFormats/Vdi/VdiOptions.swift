import BlockCore

/// Create options of VDI.
extension CreateOptionKey {
    public static let staticImage = CreateOptionKey("static")
}
