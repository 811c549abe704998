import BlockCore

/// Create options of VDI.
extension CreateOptionKey {
    /// Whether every block gets its place at creation.
    public static let staticImage = CreateOptionKey("static")
}
