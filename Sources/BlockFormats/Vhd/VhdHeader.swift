import BlockCore

/// The header of dynamic and differencing disks. Its fields are in VhdHeaderFields.swift.
struct VhdHeader: Sendable, Equatable {
    /// All 1024 bytes; unknown fields stay unchanged.
    private(set) var bytes: [UInt8]
    /// The offset in the file, in bytes.
    var offset: Int

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
        Field.dataOffset.store(.max, in: &bytes)
        Field.version.store(UInt64(Self.version), in: &bytes)
        Field.blockBytes.store(UInt64(blockBytes), in: &bytes)
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
        guard Field.version.number(in: bytes) >> 16 == UInt64(version) >> 16 else {
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
        let place = Field.tableOffset.number(in: bytes)
        guard place < 1 << 60, place % UInt64(Vhd.sectorBytes) == 0, offset % Vhd.sectorBytes == 0 else {
            throw BlockError(.corrupt, "The VHD image's block table or header is not at a whole sector")
        }
        let ours = 0..<Vhd.footerBytes
        guard offset >= ours.upperBound, tableOffset >= ours.upperBound, !tableRange.overlaps(range) else {
            throw BlockError(.corrupt, "The VHD image's footer, header and block table overlap")
        }
    }

    var isIntact: Bool {
        Field.checksum.number(in: bytes) == UInt64(Vhd.checksum(bytes, at: Field.checksum.offset))
    }

    /// The bytes with their checksum.
    func sealed() -> [UInt8] {
        var result = bytes
        Field.checksum.store(UInt64(Vhd.checksum(bytes, at: Field.checksum.offset)), in: &result)
        return result
    }

    var range: Range<Int> { offset..<offset + Vhd.headerBytes }

    // MARK: Blocks

    var tableOffset: Int { Int(truncatingIfNeeded: Field.tableOffset.number(in: bytes)) }
    var blocks: Int { Int(truncatingIfNeeded: Field.blocks.number(in: bytes)) }
    var blockBytes: Int { Int(truncatingIfNeeded: Field.blockBytes.number(in: bytes)) }
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
        Field.tableOffset.store(UInt64(offset), in: &bytes)
        Field.blocks.store(UInt64(blocks), in: &bytes)
    }

    // MARK: Parent

    var parentUUID: ImageUUID { ImageUUID(bytes: Array(bytes[Field.parentUUID.range])) }

    /// The parent's file name, without a zero at its end.
    var parentName: String {
        let units = stride(from: Field.parentName.offset, to: Field.parentName.range.upperBound, by: 2).map {
            UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1])
        }
        return String(decoding: units.prefix { $0 != 0 }, as: UTF16.self)
    }

    private static let locatorPlaces = stride(
        from: Field.locators.offset, to: Field.locators.range.upperBound, by: Locator.byteCount)

    /// The used and valid locators.
    var locators: [Locator] {
        Self.locatorPlaces.compactMap { start in
            let length = Locator.lengthField.number(in: bytes, from: start)
            let offset = Locator.offsetField.number(in: bytes, from: start)
            guard length > 0, length <= Vhd.Limit.locatorBytes, offset < 1 << 60 else { return nil }
            let platform = String(
                decoding: Locator.platformField.bytes(in: bytes.span.bytes, from: start), as: UTF8.self)
            return Locator(platform: platform, offset: Int(offset), length: Int(length))
        }
    }

    /// Sets the parent; `nil` clears all of its fields.
    mutating func setParent(_ parent: VhdParent?, _ locators: [Locator]) {
        let fields = Field.parentUUID.offset..<Field.locators.range.upperBound
        bytes.replaceSubrange(fields, with: [UInt8](repeating: 0, count: fields.count))
        guard let parent else { return }
        bytes.put(parent.uuid.bytes, at: Field.parentUUID.offset)
        Field.parentTime.store(UInt64(parent.time), in: &bytes)
        let units = FileNames.lastComponent(parent.path).utf16.prefix(Field.parentName.width / 2 - 1)
        bytes.put(
            units.flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }, at: Field.parentName.offset)
        for (start, locator) in zip(Self.locatorPlaces, locators) {
            bytes.put(locator.fieldBytes(count: Locator.byteCount), at: start)
        }
    }
}
