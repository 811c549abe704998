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
        /// The backing file is raw; probing is skipped.
        static let backingIsRaw: UInt64 = 4
        static let known: UInt64 = 7
    }

    enum Limit {
        static let clusterBytes = 4096...(64 << 20)
        static let tableClusters = 1...16
        static let backingNameBytes = 1023
        /// Keeps the sum of a guest offset and the bytes of a table below 2^63.
        static let virtualSize = 1 << 61
        /// The L2 tables of an image that is open for writing: their offsets are kept in memory.
        static let l2Tables = 1 << 20
        /// The bytes that the repair on opening an unclosed image for writing may copy.
        static let automaticCopyBytes = 256 << 20
        /// The clusters of a file that a check accepts: one bit of memory each.
        static let checkedClusters = 512 << 20
    }

    /// The memory for cached tables, in bytes.
    static let cacheBytes = 8 << 20
    /// The largest cached part of a table, in bytes.
    static let sliceBytes = 65536
}
