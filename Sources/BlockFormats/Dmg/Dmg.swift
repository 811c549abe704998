import BlockCore

/// Names, numbers and limits of Apple's disk images (UDIF).
///
/// Source: Apple has published no specification; the layouts are those on which QEMU, libdmg-hfsplus and
/// 7-Zip agree.
enum Dmg {
    static let sectorBytes = 512
    static let trailerMagic: UInt32 = 0x6B6F_6C79
    static let trailerBytes = 512
    /// The bytes at the end in which the trailer is searched: some files were padded afterwards.
    static let tailBytes = 1024
    static let tableMagic: UInt32 = 0x6D69_7368
    static let tableHeaderBytes = 204
    static let entryBytes = 40
    /// The type of resource that holds block tables, and its name in the property list.
    static let resourceType = "blkx"
    /// The first bytes of encrypted images; the older form has its own at the end.
    static let encryptedStart = Array("encrcdsa".utf8)
    static let encryptedEnd = Array("cdsaencr".utf8)

    enum Limit {
        /// The size of the property list or the resource fork; QEMU's limit.
        static let directoryBytes = 16 << 20
        /// The number of chunks: 40 bytes of memory each.
        static let chunks = 1 << 19
        static let tables = 1 << 16
        static let sectors = 1 << 53
        /// The size of a chunk, stored and decompressed; Apple's have 256 KiB to 1 MiB.
        static let chunkBytes = 32 << 20
        /// The memory for chunks of all threads together.
        static let memoryBytes = 68 << 20
        /// The memory of cached chunks that no thread reads.
        static let cacheBytes = 16 << 20
        static let cachedChunks = 64
    }
}

/// The encodings of a chunk.
enum DmgEncoding: UInt32 {
    case zero = 0
    case raw = 1
    /// Unused space; reads as zeroes.
    case ignored = 2
    case adc = 0x8000_0004
    case zlib = 0x8000_0005
    case bzip2 = 0x8000_0006
    case lzfse = 0x8000_0007
    case lzma = 0x8000_0008

    /// The type of entries that describe no sectors.
    static let comment: UInt32 = 0x7FFF_FFFE
    static let terminator: UInt32 = 0xFFFF_FFFF

    var name: String { "\(self)" }
    var isZero: Bool { self == .zero || self == .ignored }
    var isCompressed: Bool { !isZero && self != .raw }
}

/// A stored checksum. Only CRC-32 is known to be used.
struct DmgChecksum: Sendable {
    private static let crc32: UInt32 = 2

    var type: UInt32
    var value: UInt32

    init(_ bytes: RawSpan, at offset: Int) {
        type = UInt32(truncatingIfNeeded: Field.type.number(in: bytes, from: offset))
        value = UInt32(truncatingIfNeeded: Field.value.number(in: bytes, from: offset))
    }

    /// The expected CRC-32; `nil` for another type of checksum, or none.
    var expected: UInt32? { type == Self.crc32 ? value : nil }
}
