import BlockCore

/// Names, numbers and limits of QEMU's first copy-on-write format, qcow version 1.
///
/// Source: libyal/libqcow, documentation/QEMU Copy-On-Write file format.asciidoc, sections of version 1;
/// experiments with qemu-img.
enum Qcow {
    /// "QFI\xFB", which qcow2 has too.
    static let magic: UInt32 = 0x5146_49FB
    static let version: UInt32 = 1
    static let headerBytes = 48
    static let sectorBytes = 512

    enum Limit {
        static let clusterBits = 9...16
        static let tableBits = 6...13
        static let backingNameBytes = 1023
        /// As many as QEMU takes: the L1 table stays below 2 GiB.
        static let l1Entries = Int(Int32.max) / 8
        /// L2 tables of an image that is written to: their places are kept in memory.
        static let l2Tables = 1 << 20
        /// Units of space that a check can look at: two bits of memory each.
        static let checkedUnits = 256 << 20
    }

    /// How much memory the L2 tables may take, in bytes.
    static let cacheBytes = 8 << 20
}
