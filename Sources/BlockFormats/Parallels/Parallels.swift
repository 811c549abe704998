import BlockCore

/// Names, numbers and limits of Parallels' expandable images.
///
/// Source: QEMU, docs/interop/parallels.rst, "Parallels Expandable Image File Format".
enum Parallels {
    static let sectorBytes = 512
    static let headerBytes = 64
    static let entryBytes = 4
    static let version: UInt32 = 2
    /// An entry of the block allocation table (BAT): nothing is stored, which reads as zeroes.
    static let unallocated: UInt32 = 0

    /// The two kinds of images, distinguished by their first 16 bytes.
    enum Kind: String, Sendable, CaseIterable {
        /// Entries count sectors, the disk has at most 2^32 of them.
        case sectors = "WithoutFreeSpace"
        /// Entries count clusters.
        case clusters = "WithouFreSpacExt"
    }

    /// The values of the field `in_use`.
    enum Use {
        /// Last closed by a program that knows nothing of the format extension.
        static let closedByOld: UInt32 = 0
        static let closed: UInt32 = 0x312E_3276
        /// Opened for writing, or not closed after that.
        static let open: UInt32 = 0x746F_6E59
    }

    enum Limit {
        /// QEMU's limit: slightly less than 2 GiB.
        static let clusterSectors = Int(Int32.max) / 513
        /// 16 TiB of the usual clusters of 1 MiB; the table then takes 64 MiB of memory.
        static let entries = 16 << 20
        static let virtualSize = 1 << 60
        /// The clusters of a file that the bitmap of used clusters covers, per entry and in addition.
        static let fileClustersPerEntry = 4
        static let fileClusters = 1 << 25
        /// The format extension, which takes a cluster, is read as a whole.
        static let extensionBytes = 16 << 20
        static let extensionSections = 1024
        /// The memory for all bitmaps of an image, in bytes.
        static let bitmapBytes = 32 << 20
        /// The clusters that the repair on opening an image for writing may copy.
        static let automaticCopies = 1024
        /// The entries that the same repair may add to a table that is too short.
        static let automaticEntries = 1 << 20
        /// The runs of freed clusters that are kept in memory before a commit.
        static let freedRuns = 1 << 16
    }
}
