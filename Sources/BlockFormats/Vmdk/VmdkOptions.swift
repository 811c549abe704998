import BlockCore

/// Create options of VMDK.
extension CreateOptionKey {
    public static let compat6 = CreateOptionKey("compat6")
    public static let adapterType = CreateOptionKey("adapter_type")
    public static let hwVersion = CreateOptionKey("hwversion")
    public static let toolsVersion = CreateOptionKey("toolsversion")
    public static let zeroedGrain = CreateOptionKey("zeroed_grain")
}
