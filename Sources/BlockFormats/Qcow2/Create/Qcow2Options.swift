import BlockCore

/// Create options of qcow2.
extension CreateOptionKey {
    public static let compat = CreateOptionKey("compat")
    public static let lazyRefcounts = CreateOptionKey("lazy_refcounts")
    public static let refcountBits = CreateOptionKey("refcount_bits")
    public static let dataFile = CreateOptionKey("data_file")
    public static let dataFileRaw = CreateOptionKey("data_file_raw")
    public static let extendedL2 = CreateOptionKey("extended_l2")
    public static let compressionType = CreateOptionKey("compression_type")
}
