import BlockCore

/// Names, numbers and limits of Virtual PC's disk images.
///
/// Source: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0, October 2006.
enum Vhd {
    static let sectorBytes = 512
    static let footerBytes = 512
    /// Virtual PC before 2004 wrote footers without the last byte.
    static let oldFooterBytes = 511
    static let headerBytes = 1024
    static let cookie = Array("conectix".utf8)
    static let headerCookie = Array("cxsparse".utf8)
    /// The usual offset of the header of a dynamic disk, in bytes.
    static let usualHeaderOffset = 512
    /// An entry of the block table: nothing is stored; the block shows the parent, or reads as zeroes.
    static let unallocated: UInt32 = .max
    /// Times count from 2000-01-01, in seconds since 1970.
    static let epoch = 946_684_800
    static let defaultBlockBytes = 2 << 20
    /// New blocks have their data at multiples of this, as Hyper-V's do.
    static let dataAlignment = 4096
    /// Azure accepts disks whose size is a multiple of this, in bytes.
    static let azureUnit = 1 << 20

    enum DiskType: UInt32, Sendable {
        case fixed = 2
        case dynamic = 3
        case differencing = 4

        /// The name in the option `subformat`.
        var name: String {
            switch self {
            case .fixed: "fixed"
            case .dynamic: "dynamic"
            case .differencing: "differencing"
            }
        }
    }

    enum Limit {
        /// 2040 GiB, the limit of other programs.
        static let diskBytes = 0xFF00_0000 * sectorBytes
        static let blockBytes = sectorBytes...(256 << 20)
        /// The block sizes of new images. QEMU assumes that smaller blocks have no bitmaps, and would read
        /// and write other bytes.
        static let newBlockBytes = 4096...(256 << 20)
        /// The largest disk in blocks of 512 KiB; the table then takes 16 MiB of memory, and a check two to
        /// three times as much.
        static let blocks = 4 << 20
        /// The size of one locator: a spelling of the parent's name.
        static let locatorBytes = 16384
        static let locators = 8
        /// The end of the offsets that the table can refer to.
        static let blockOffset = Int(UInt32.max - 1) * sectorBytes
    }

    /// The checksum of a footer or header: the complement of the sum of its other bytes.
    static func checksum(_ bytes: [UInt8], at place: Int) -> UInt32 {
        var sum: UInt32 = 0
        for (index, byte) in bytes.enumerated() where index < place || index >= place + 4 {
            sum &+= UInt32(byte)
        }
        return ~sum
    }
}

extension [UInt8] {
    mutating func put(_ bytes: [UInt8], at offset: Int) {
        replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }
}
