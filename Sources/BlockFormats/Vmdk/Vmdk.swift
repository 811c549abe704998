import BlockCore

/// Names, numbers and limits of VMware's virtual disks.
///
/// Source: VMware, "Virtual Disk Format 5.0"; libyal/libvmdk, documentation/VMWare Virtual Disk Format
/// (VMDK).asciidoc; experiments with qemu-img.
enum Vmdk {
    static let sectorBytes = 512

    /// The first bytes of a hosted sparse extent, of a COW disk, and of a text descriptor.
    static let sparseMagic: UInt32 = 0x564D_444B
    static let cowMagic: UInt32 = 0x4457_4F43
    static let descriptorMagic = "# disk descriptorfile"
    /// The first bytes of an SEsparse extent.
    static let seSparseMagic: UInt64 = 0xCAFE_BABE

    /// The parent's content ID of a disk without a parent.
    static let noParent: UInt32 = 0xFFFF_FFFF
    /// The directory offset in a header whose footer holds the real one.
    static let directoryAtEnd: UInt64 = .max
    /// A grain table entry that reads as zeroes, if the header's flags allow it.
    static let zeroGrain: UInt32 = 1

    /// Bits of the header's flags.
    enum Flag {
        static let newlineTest: UInt32 = 1
        static let redundantTables: UInt32 = 2
        static let zeroedGrains: UInt32 = 4
        static let compressed: UInt32 = 0x10000
        static let markers: UInt32 = 0x20000
    }

    /// The types of markers between compressed grains.
    enum Marker: Sendable {
        static let endOfStream: UInt32 = 0
        static let grainTable: UInt32 = 1
        static let grainDirectory: UInt32 = 2
        static let footer: UInt32 = 3
        /// The header of compressed data, in bytes: guest sector and size.
        static let grainHeaderBytes = 12
    }

    enum Limit {
        /// The text of a descriptor.
        static let descriptorBytes = 1 << 20
        /// The files of a split disk: 8 TiB in parts of 2 GiB.
        static let extents = 4096
        static let grainSectors = 4096
        static let tableEntries = 4096
        /// The entries of the grain directories of all extents: 64 TiB with usual grains. Both copies are
        /// kept in memory.
        static let directoryEntries = 2 << 20
        /// The memory for cached grain tables of all extents, in bytes.
        static let keptTableBytes = 32 << 20
        /// The largest file, in sectors: entries hold 32-bit sector numbers.
        static let fileSectors = Int(UInt32.max)
    }

    /// The grain size of new images, in sectors.
    static let grainSectors = 128
    static let tableEntries = 512
    /// The space of the descriptor inside a sparse extent, and its place, in sectors.
    static let descriptorSectors = 20
    static let descriptorOffset = 512

    /// The layouts of a disk in files.
    enum Subformat: String, CaseIterable {
        case monolithicSparse
        case monolithicFlat
        case twoGbMaxExtentSparse
        case twoGbMaxExtentFlat
        case streamOptimized

        var isFlat: Bool { self == .monolithicFlat || self == .twoGbMaxExtentFlat }
        var isSplit: Bool { self == .twoGbMaxExtentSparse || self == .twoGbMaxExtentFlat }
        /// Whether the descriptor is embedded in the only file.
        var isEmbedded: Bool { self == .monolithicSparse || self == .streamOptimized }
    }

    /// The size of every part of a split disk except the last, in bytes.
    static let splitBytes = 2 << 30
}
