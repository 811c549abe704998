import BlockCore

/// Names, numbers and limits of the QED format.
///
/// Source: QEMU, docs/interop/qed_spec.rst, "Specification".
enum Qed {
    /// "QED\0" as a little-endian number.
    static let magic: UInt32 = 0x0044_4551
    static let sectorBytes = 512
    static let headerBytes = 64
    /// An L2 entry: the cluster reads as zeroes.
    static let zeroCluster: UInt64 = 1

    enum Feature {
        static let backingFile: UInt64 = 1
        static let needCheck: UInt64 = 2
        /// The backing file is raw, whatever it looks like.
        static let backingIsRaw: UInt64 = 4
        static let known: UInt64 = 7
    }

    enum Limit {
        static let clusterBytes = 4096...(64 << 20)
        static let tableClusters = 1...16
        static let backingNameBytes = 1023
        /// So that sums of guest offsets and what a table maps stay numbers.
        static let virtualSize = 1 << 61
        /// L2 tables of an image that is written to: their places are kept in memory.
        static let l2Tables = 1 << 20
        /// What a repair may copy that nobody asked for, as an image that was not closed is opened for
        /// writing.
        static let automaticCopyBytes = 256 << 20
        /// Clusters that a check can look at: one bit of memory each.
        static let checkedClusters = 512 << 20
    }

    /// How much memory the tables may take, in bytes.
    static let cacheBytes = 8 << 20
    /// Tables are cached in parts of at most this size.
    static let sliceBytes = 65536
}
