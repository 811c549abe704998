import BlockCore

/// Create options of QED.
extension CreateOptionKey {
    /// The clusters of a table.
    public static let tableSize = CreateOptionKey("table_size")
}
