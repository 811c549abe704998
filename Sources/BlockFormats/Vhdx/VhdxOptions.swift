import BlockCore

/// Create options of VHDX.
extension CreateOptionKey {
    /// Whether blocks without data are marked as zero, not as absent.
    public static let blockStateZero = CreateOptionKey("block_state_zero")
    /// The bytes of the log.
    public static let logSize = CreateOptionKey("log_size")
}
