import BlockCore

/// Create options of VMDK.
extension CreateOptionKey {
    /// Whether the descriptor states hardware version 6.
    public static let compat6 = CreateOptionKey("compat6")
    /// The virtual adapter, as the descriptor states it.
    public static let adapterType = CreateOptionKey("adapter_type")
    /// The virtual hardware's version, as the descriptor states it.
    public static let hwVersion = CreateOptionKey("hwversion")
    /// The version of VMware's guest tools, as the descriptor states it.
    public static let toolsVersion = CreateOptionKey("toolsversion")
    /// Whether grains of zeroes are marked instead of stored.
    public static let zeroedGrain = CreateOptionKey("zeroed_grain")
}
