import BlockCore

/// Create options of QED.
extension CreateOptionKey {
    public static let tableSize = CreateOptionKey("table_size")
}
