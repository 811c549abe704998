import BlockCore

/// Create options of VHDX.
extension CreateOptionKey {
    public static let blockStateZero = CreateOptionKey("block_state_zero")
    public static let logSize = CreateOptionKey("log_size")
}
