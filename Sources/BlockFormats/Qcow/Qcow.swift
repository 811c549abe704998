import BlockCore

/// Names, numbers and limits of QEMU's first copy-on-write format, qcow version 1.
///
/// Source: libyal/libqcow, documentation/QEMU Copy-On-Write file format.asciidoc, sections of version 1;
/// experiments with qemu-img.
enum Qcow {
    /// "QFI\xFB", the magic of qcow2 too.
    static let magic: UInt32 = 0x5146_49FB
    static let version: UInt32 = 1
    static let headerBytes = 48
    static let sectorBytes = 512

    enum Limit {
        static let clusterBits = 9...16
        static let tableBits = 6...13
        static let backingNameBytes = 1023
        /// QEMU's limit: the L1 table stays below 2 GiB.
        static let l1Entries = Int(Int32.max) / 8
        /// The L2 tables of an image that is open for writing: their offsets are kept in memory.
        static let l2Tables = 1 << 20
        /// The units of a file that a check accepts: two bits of memory each.
        static let checkedUnits = 256 << 20
    }

    /// The memory for cached L2 tables, in bytes.
    static let cacheBytes = 8 << 20
}
