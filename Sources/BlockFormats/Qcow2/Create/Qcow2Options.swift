import BlockCore

/// Create options of qcow2.
extension CreateOptionKey {
    /// The version by its oldest QEMU: `0.10` is 2, `1.1` is 3.
    public static let compat = CreateOptionKey("compat")
    /// Whether refcounts may be out of date while the image is open.
    public static let lazyRefcounts = CreateOptionKey("lazy_refcounts")
    /// The width of refcounts in bits, from 1 to 64.
    public static let refcountBits = CreateOptionKey("refcount_bits")
    /// The name of the external data file.
    public static let dataFile = CreateOptionKey("data_file")
    /// Whether the data file must read as the disk, without the image.
    public static let dataFileRaw = CreateOptionKey("data_file_raw")
    /// Whether L2 entries map the 32 subclusters of a cluster.
    public static let extendedL2 = CreateOptionKey("extended_l2")
    /// How clusters are compressed: `zlib` or `zstd`.
    public static let compressionType = CreateOptionKey("compression_type")
}
