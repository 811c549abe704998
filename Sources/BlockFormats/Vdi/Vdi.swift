import BlockCore

/// Names, numbers and limits of VirtualBox's disk images.
///
/// Source: formats.kaitai.io/vdi (VirtualBox Disk Image 1.1), and the images that VirtualBox writes.
enum Vdi {
    static let signature: UInt32 = 0xBEDA_107F
    static let signatureOffset = 0x40
    static let version: UInt32 = 0x0001_0001
    static let sectorBytes = 512
    /// An entry of the block map: nothing is stored; the block shows the parent, or reads as zeroes.
    static let unallocated: UInt32 = 0xFFFF_FFFF
    /// An entry of the block map: reads as zeroes.
    static let discarded: UInt32 = 0xFFFF_FFFE

    enum Limit {
        static let blockBytes = 512...(256 << 20)
        static let blockExtraBytes = Int.mib(1)
        /// 16 TiB of the usual blocks of 1 MiB; the map then takes 64 MiB of memory.
        static let blocks = 16 << 20
        /// The largest disk size in a header that QEMU accepts: 0x1FFFFF80 blocks of 1 MiB.
        static let statedBytes = 0x1FFF_FF80 << 20
    }

    enum ImageType: UInt32, Sendable {
        case dynamic = 1
        case fixed = 2
        case undo = 3
        case differencing = 4

        var name: String {
            switch self {
            case .dynamic: "dynamic"
            case .fixed: "static"
            case .undo: "undo"
            case .differencing: "differencing"
            }
        }

        /// Whether unallocated blocks come from a parent image.
        var hasParent: Bool { self == .undo || self == .differencing }
    }
}
