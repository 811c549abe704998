import BlockCore

/// Names, numbers and limits of Hyper-V's virtual hard disks, version 2.
///
/// Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", section 2.
///
/// ```
/// 0     file identifier   64K, 128K  headers   192K, 256K  region tables   1M...  log, regions, blocks
/// ```
enum Vhdx {
    static let smallestSectorBytes = 512
    static let signature = Array("vhdxfile".utf8)
    /// The signature, read as a little-endian number.
    static let signatureNumber: UInt64 = 0x656C_6966_7864_6876
    static let headerOffsets = [64 << 10, 128 << 10]
    static let headerBytes = 4096
    static let regionTableOffsets = [192 << 10, 256 << 10]
    static let regionTableBytes = 64 << 10
    /// The unit of the file in bytes: everything behind the header section is aligned to it, and as long as a
    /// multiple of it.
    static let unitBytes = 1 << 20
    /// The unit of a change in the log, in bytes.
    static let pageBytes = 4096
    /// The logical sectors that one sector bitmap block covers.
    static let sectorsPerBitmap = 1 << 23

    enum Limit {
        static let blockBytes = unitBytes...(256 << 20)
        static let virtualSize = 64 << 40
        /// The highest offset in a file; the bitmap of its units takes 16 MiB.
        static let fileBytes = 1 << 47
        static let tableEntries = 2047
        static let metadataItemBytes = 1 << 20
        /// The largest log that is replayed.
        static let logBytes = 256 << 20
        /// The memory for the changes of a log when the file is open read-only.
        static let patchBytes = 32 << 20
        static let zeroPatches = 1024
        static let locatorEntries = 256
        static let parentNameUnits = 4096
    }

    /// The states of a payload block in its BAT entry.
    enum BlockState: UInt64, Sendable {
        case notPresent = 0
        case undefined = 1
        case zero = 2
        case unmapped = 3
        /// "Unmapped" before version 1.0 of the specification.
        case unmappedBefore1 = 5
        case fullyPresent = 6
        case partiallyPresent = 7
    }

    /// The state of a stored sector bitmap block in its BAT entry.
    static let bitmapPresent: UInt64 = 6

    /// The entry of a zero block. Hyper-V accepts no offset in it.
    static let zeroEntry: UInt64 = 2
    static let stateMask: UInt64 = 7

    /// The entry of a block that is stored at `offset`.
    static func entry(_ state: BlockState, at offset: Int) -> UInt64 { UInt64(offset) | state.rawValue }

    /// The offset in an entry, a multiple of 1 MiB; `nil` beyond the largest file.
    static func offset(of entry: UInt64) -> Int? {
        let offset = entry & ~0xF_FFFF
        return offset <= UInt64(Limit.fileBytes) ? Int(offset) : nil
    }

    /// Whether a payload block is stored in part, with a bitmap of its stored sectors.
    static func isPartial(_ entry: UInt64) -> Bool {
        entry & stateMask == BlockState.partiallyPresent.rawValue
    }

    static func state(of entry: UInt64) -> BlockState? { BlockState(rawValue: entry & stateMask) }

    enum Region {
        static let bat = guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
        static let metadata = guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
    }

    enum Item {
        static let fileParameters = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
        static let virtualSize = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
        static let diskID = guid("BECA12AB-B2E6-4523-93EF-C309E000C746")
        static let logicalSector = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
        static let physicalSector = guid("CDA348C7-445D-4471-9CC9-E9885251C556")
        static let parentLocator = guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
    }

    /// The type of a locator whose parent is a VHDX file.
    static let locatorType = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913")
    static let noGUID = ImageUUID(bytes: [])

    private static func guid(_ text: String) -> ImageUUID { ImageUUID(guidText: text) ?? noGUID }
}

extension ImageUUID {
    /// Reads `01234567-89AB-CDEF-0123-456789ABCDEF`, with or without braces; `nil` for anything else.
    init?(guidText text: String) {
        var digits: [UInt8] = []
        for character in text.utf8 where ![0x2D, 0x7B, 0x7D].contains(character) {
            guard let digit = UInt8(String(decoding: [character], as: UTF8.self), radix: 16) else {
                return nil
            }
            digits.append(digit)
        }
        guard digits.count == 32 else { return nil }
        self.init(bytes: (0..<16).map { digits[$0 * 2] << 4 | digits[$0 * 2 + 1] })
    }

    /// `{01234567-89AB-CDEF-0123-456789ABCDEF}`
    var guidText: String { "{" + text.uppercased() + "}" }
}

extension RawSpan {
    /// The 32-bit little-endian number at `offset`, 0 past the end.
    func number32(_ offset: Int) -> Int {
        let value: UInt32? = littleEndian(at: offset)
        return Int(value ?? 0)
    }

    /// The 64-bit little-endian number at `offset`, 0 past the end.
    func number64(_ offset: Int) -> UInt64 {
        let value: UInt64? = littleEndian(at: offset)
        return value ?? 0
    }
}

extension HeaderField {
    /// Whether the field has the CRC-32C of `bytes`, which have the field, with zeroes in place of the field.
    func isChecksum(of bytes: RawSpan) -> Bool {
        bytes.crc32c(zeroing: offset).map { UInt64($0) } == number(in: bytes)
    }

    /// Stores that checksum.
    func storeChecksum(in bytes: inout MutableRawSpan) {
        store(UInt64(bytes.bytes.crc32c(zeroing: offset) ?? 0), in: &bytes)
    }
}
