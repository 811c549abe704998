import BlockCore

/// The header of dynamic and differencing disks, all big-endian:
///
/// ```
/// 000 "cxsparse"  008 all ones (8)       010 block table's offset (8)   018 version   01C table entries
/// 020 block size  024 checksum           028 parent's UUID (16)         038 its time  040 its name (512)
/// 240 eight parent locators: 00 platform  04 space  08 length  10 offset (8)
/// ```
struct VhdHeader: Sendable, Equatable {
    /// All 1024 bytes; unknown fields stay unchanged.
    private(set) var bytes: [UInt8]
    /// The offset in the file, in bytes.
    var offset: Int

    private enum Field {
        static let dataOffset = 0x08
        static let tableOffset = 0x10
        static let version = 0x18
        static let blocks = 0x1C
        static let blockBytes = 0x20
        static let checksum = 0x24
        static let parentUUID = 0x28
        static let parentTime = 0x38
        static let parentName = 0x40
        static let locators = 0x240
        static let locatorBytes = 24
        static let end = 0x300
    }

    private static let version: UInt32 = 0x0001_0000

    /// A parent's name for one platform.
    struct Locator: Sendable, Equatable {
        var platform: String
        var offset: Int
        var length: Int

        /// Its space in the file, in bytes.
        var range: Range<Int> { offset..<offset + (length.roundedUp(to: Vhd.sectorBytes) ?? length) }
    }

    init(offset: Int, tableOffset: Int, blocks: Int, blockBytes: Int) {
        self.offset = offset
        bytes = Vhd.headerCookie + [UInt8](repeating: 0, count: Vhd.headerBytes - Vhd.headerCookie.count)
        bytes.put(UInt64.max, at: Field.dataOffset)
        bytes.put(Self.version, at: Field.version)
        bytes.put(UInt32(blockBytes), at: Field.blockBytes)
        setTable(offset: tableOffset, blocks: blocks)
    }

    /// Does not verify the checksum; see ``isIntact``.
    ///
    /// The caller also calls ``checkPlaces()``.
    /// - Throws: `corrupt`, `unsupported`, `limit`.
    static func parse(_ bytes: [UInt8], at offset: Int) throws(BlockError) -> VhdHeader {
        let header = VhdHeader(bytes: bytes, offset: offset)
        guard bytes.count == Vhd.headerBytes, bytes.starts(with: Vhd.headerCookie) else {
            throw BlockError(.corrupt, "Invalid header magic")
        }
        try header.checkSizes()
        guard bytes.number32(Field.version) >> 16 == version >> 16 else {
            throw BlockError(.unsupported, "The VHD image's header has a version other than 1")
        }
        return header
    }

    private init(bytes: [UInt8], offset: Int) {
        self.bytes = bytes
        self.offset = offset
    }

    private func checkSizes() throws(BlockError) {
        guard blockBytes.isPowerOfTwo, Vhd.Limit.blockBytes.contains(blockBytes) else {
            throw BlockError(.unsupported, "Invalid block size \(blockBytes)")
        }
        guard blocks <= Vhd.Limit.blocks else {
            let shown = Int32(truncatingIfNeeded: blocks)
            throw BlockError(
                .limit, "Max Table Entries too large (\(shown))",
                hint: "At most \(Vhd.Limit.blocks) blocks are supported.")
        }
    }

    /// - Throws: `corrupt` when footer, header and block table overlap or are out of range.
    func checkPlaces() throws(BlockError) {
        let place = bytes.number64(Field.tableOffset)
        guard place < 1 << 60, place % UInt64(Vhd.sectorBytes) == 0, offset % Vhd.sectorBytes == 0 else {
            throw BlockError(.corrupt, "The VHD image's block table or header is not at a whole sector")
        }
        let ours = 0..<Vhd.footerBytes
        guard offset >= ours.upperBound, tableOffset >= ours.upperBound, !tableRange.overlaps(range) else {
            throw BlockError(.corrupt, "The VHD image's footer, header and block table overlap")
        }
    }

    var isIntact: Bool { bytes.number32(Field.checksum) == Vhd.checksum(bytes, at: Field.checksum) }

    /// The bytes with their checksum.
    func sealed() -> [UInt8] {
        var result = bytes
        result.put(Vhd.checksum(bytes, at: Field.checksum), at: Field.checksum)
        return result
    }

    var range: Range<Int> { offset..<offset + Vhd.headerBytes }

    // MARK: Blocks

    var tableOffset: Int { Int(truncatingIfNeeded: bytes.number64(Field.tableOffset)) }
    var blocks: Int { Int(bytes.number32(Field.blocks)) }
    var blockBytes: Int { Int(bytes.number32(Field.blockBytes)) }
    /// The space of the block table in the file, in bytes.
    var tableRange: Range<Int> { tableOffset..<tableOffset + BlockTable.fileBytes(entries: blocks) }

    /// The size of the bitmap before a block's data, in bytes: one bit per sector, in whole sectors.
    var bitmapBytes: Int { Self.bitmapBytes(ofBlock: blockBytes) }

    static func bitmapBytes(ofBlock blockBytes: Int) -> Int {
        (blockBytes / Vhd.sectorBytes + 4095) / 4096 * Vhd.sectorBytes
    }

    /// The size of a bitmap and the data behind it, in bytes.
    var strideBytes: Int { bitmapBytes + blockBytes }

    /// Changes fields of the first sector only, so that the change is one atomic write.
    mutating func setTable(offset: Int, blocks: Int) {
        bytes.put(UInt64(offset), at: Field.tableOffset)
        bytes.put(UInt32(blocks), at: Field.blocks)
    }

    // MARK: Parent

    var parentUUID: ImageUUID { ImageUUID(bytes: Array(bytes[Field.parentUUID..<Field.parentTime])) }

    /// The parent's file name, without a zero at its end.
    var parentName: String {
        let units = stride(from: Field.parentName, to: Field.locators, by: 2).map {
            UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1])
        }
        return String(decoding: units.prefix { $0 != 0 }, as: UTF16.self)
    }

    /// The used and valid locators.
    var locators: [Locator] {
        stride(from: Field.locators, to: Field.end, by: Field.locatorBytes).compactMap { start in
            let length = Int(bytes.number32(start + 8))
            let offset = bytes.number64(start + 16)
            guard length > 0, length <= Vhd.Limit.locatorBytes, offset < 1 << 60 else { return nil }
            let platform = String(decoding: bytes[start..<start + 4], as: UTF8.self)
            return Locator(platform: platform, offset: Int(offset), length: length)
        }
    }

    /// Sets the parent; `nil` clears all of its fields.
    mutating func setParent(_ parent: VhdParent?, _ locators: [Locator]) {
        bytes.replaceSubrange(
            Field.parentUUID..<Field.end,
            with: [UInt8](repeating: 0, count: Field.end - Field.parentUUID))
        guard let parent else { return }
        bytes.put(parent.uuid.bytes, at: Field.parentUUID)
        bytes.put(parent.time, at: Field.parentTime)
        let units = FileNames.lastComponent(parent.path).utf16.prefix(
            (Field.locators - Field.parentName) / 2 - 1)
        bytes.put(
            units.flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }, at: Field.parentName)
        for (index, locator) in locators.prefix(Vhd.Limit.locators).enumerated() {
            let start = Field.locators + index * Field.locatorBytes
            bytes.put(Array(locator.platform.utf8.prefix(4)), at: start)
            // The specification has sectors here; Windows writes bytes.
            bytes.put(UInt32(locator.range.count), at: start + 4)
            bytes.put(UInt32(locator.length), at: start + 8)
            bytes.put(UInt64(locator.offset), at: start + 16)
        }
    }
}
