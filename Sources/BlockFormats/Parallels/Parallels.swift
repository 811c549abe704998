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

    /// The two kinds of images, told by their first 16 bytes.
    enum Kind: String, Sendable, CaseIterable {
        /// Entries count sectors, the disk has at most 2^32 of them.
        case sectors = "WithoutFreeSpace"
        /// Entries count clusters.
        case clusters = "WithouFreSpacExt"
    }

    /// What the field `in_use` says.
    enum Use {
        /// Last closed by a program that knows nothing of the format extension.
        static let closedByOld: UInt32 = 0
        static let closed: UInt32 = 0x312E_3276
        /// Opened for writing, or not closed after that.
        static let open: UInt32 = 0x746F_6E59
    }

    enum Limit {
        /// As QEMU: 2 GiB, less a little.
        static let clusterSectors = Int(Int32.max) / 513
        /// 16 TiB of the usual clusters of 1 MiB; the table then takes 64 MiB of memory.
        static let entries = 16 << 20
        static let virtualSize = 1 << 60
        /// Clusters of the file of which it is known whether they are used, for each entry and besides.
        static let fileClustersPerEntry = 4
        static let fileClusters = 1 << 25
        /// The format extension, which takes a cluster, is read as a whole.
        static let extensionBytes = 16 << 20
        static let extensionSections = 1024
        /// What all bitmaps of an image take in memory.
        static let bitmapBytes = 32 << 20
        /// How many clusters are copied to mend an image because somebody wants to write to it.
        static let automaticCopies = 1024
        /// How many entries a table that is too short gets for that.
        static let automaticEntries = 1 << 20
        /// Freed clusters are made durable when there are so many runs of them.
        static let freedRuns = 1 << 16
    }
}
