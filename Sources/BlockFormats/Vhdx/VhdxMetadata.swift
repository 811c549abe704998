import BlockCore

/// The metadata region: the properties of the disk ([MS-VHDX] 2.6). The entries follow the table's header.
struct VhdxMetadata: Sendable, Equatable {
    static let tableBytes = 64 << 10

    /// The place of an item, and of its table entry; both in bytes of the file.
    struct Place: Sendable, Equatable {
        var range: Range<Int>
        var entryOffset: Int
    }

    private(set) var places: [Place] = []
    private var guids: [ImageUUID] = []
    /// The number of entries of the table, including unknown ones.
    private(set) var entryCount = 0
    /// The end of all items except the parent locator, in bytes of the file.
    private(set) var otherItemsEnd = 0
    var geometry = VhdxGeometry()
    /// Set for a fixed image: its blocks keep their places.
    var leavesBlocksAllocated = false
    var diskID = Vhdx.noGUID
    var physicalSectorBytes = 4096
    /// The stored bytes of the parent locator.
    var locator: [UInt8]?

    /// Reads table and items.
    ///
    /// - Throws: `corrupt`, `unsupported`, `limit` with the reason.
    init(_ view: VhdxView, region: Range<Int>) throws(BlockError) {
        guard region.count >= Self.tableBytes else {
            throw BlockError(.corrupt, "The VHDX metadata region is too small")
        }
        let table = try view.read(at: region.lowerBound, count: Self.tableBytes)
        try readTable(table.span.bytes, region)
        try readItems(view)
        try geometry.validate()
    }

    private mutating func readTable(_ table: RawSpan, _ region: Range<Int>) throws(BlockError) {
        entryCount = Int(truncatingIfNeeded: VhdxMetadataTable.countField.number(in: table))
        guard VhdxMetadataTable.isTable(table), entryCount <= Vhdx.Limit.tableEntries else {
            throw BlockError(.corrupt, "The VHDX metadata table is damaged", offset: region.lowerBound)
        }
        otherItemsEnd = region.lowerBound + Self.tableBytes
        for index in 0..<entryCount {
            let place = VhdxMetadataTable.entryOffset(index)
            var entry = VhdxMetadataEntry()
            try entry.readFields(table.extracting(place..<place + VhdxMetadataEntry.byteCount))
            if entry.guid != Vhdx.Item.parentLocator {
                otherItemsEnd = max(otherItemsEnd, region.lowerBound + entry.offset + entry.length)
            }
            guard Self.isKnown(entry.guid) else {
                guard entry.flags & VhdxMetadataEntry.requiredFlag == 0 else {
                    throw BlockError(
                        .unsupported, "The VHDX image needs an unknown metadata item (\(entry.guid.text))")
                }
                continue
            }
            guard entry.offset >= Self.tableBytes, entry.length <= Vhdx.Limit.metadataItemBytes,
                entry.offset + entry.length <= region.count, !guids.contains(entry.guid)
            else { throw BlockError(.corrupt, "A VHDX metadata item is misplaced (\(entry.guid.text))") }
            let start = region.lowerBound + entry.offset
            guids.append(entry.guid)
            places.append(
                Place(range: start..<start + entry.length, entryOffset: region.lowerBound + place))
        }
    }

    private static func isKnown(_ guid: ImageUUID) -> Bool {
        [
            Vhdx.Item.fileParameters, Vhdx.Item.virtualSize, Vhdx.Item.diskID, Vhdx.Item.logicalSector,
            Vhdx.Item.physicalSector, Vhdx.Item.parentLocator,
        ].contains(guid)
    }

    /// The place of an item; `nil` when it is missing.
    func place(of guid: ImageUUID) -> Place? { guids.firstIndex(of: guid).map { places[$0] } }

    /// The bytes of a required item.
    private func item(
        _ guid: ImageUUID, _ name: String, count: Int, _ view: VhdxView
    ) throws(BlockError) -> [UInt8] {
        guard let place = place(of: guid), place.range.count >= count else {
            throw BlockError(.corrupt, "The VHDX image does not state its \(name)")
        }
        return try view.read(at: place.range.lowerBound, count: count)
    }

    private mutating func readItems(_ view: VhdxView) throws(BlockError) {
        var parameters = VhdxFileParameters()
        let stored = try item(
            Vhdx.Item.fileParameters, "block size", count: VhdxFileParameters.byteCount, view)
        try parameters.readFields(stored.span.bytes)
        geometry.blockBytes = parameters.blockBytes
        geometry.hasParent = parameters.hasParent
        leavesBlocksAllocated = parameters.leavesBlocksAllocated && !geometry.hasParent
        let size = try item(Vhdx.Item.virtualSize, "size", count: 8, view)
        geometry.virtualSize = Int(clamping: size.span.bytes.number64(0))
        let sector = try item(Vhdx.Item.logicalSector, "logical sector size", count: 4, view)
        geometry.sectorBytes = sector.span.bytes.number32(0)
        if place(of: Vhdx.Item.physicalSector) != nil {
            let physical = try item(Vhdx.Item.physicalSector, "physical sector size", count: 4, view)
            physicalSectorBytes = physical.span.bytes.number32(0)
        }
        if place(of: Vhdx.Item.diskID) != nil {
            let identity = try item(Vhdx.Item.diskID, "identifier", count: 16, view)
            diskID = ImageUUID(mixedEndian: identity)
        }
        if let place = place(of: Vhdx.Item.parentLocator) {
            locator = try view.read(at: place.range.lowerBound, count: place.range.count)
        }
        guard [512, 4096].contains(physicalSectorBytes) else {
            throw BlockError(.unsupported, "Unsupported VHDX physical sector size \(physicalSectorBytes)")
        }
    }
}

/// Sizes, and the positions of entries in the BAT derived from them ([MS-VHDX] 2.5).
///
/// The entries of all payload blocks that one sector bitmap covers are followed by the entry of that bitmap.
struct VhdxGeometry: Sendable, Equatable {
    var virtualSize = 0
    var blockBytes = 1 << 20
    var sectorBytes = 512
    var hasParent = false

    /// - Throws: `unsupported`, `limit`, `corrupt`.
    func validate() throws(BlockError) {
        guard [512, 4096].contains(sectorBytes) else {
            throw BlockError(.unsupported, "Unsupported VHDX logical sector size \(sectorBytes)")
        }
        guard blockBytes.isPowerOfTwo, Vhdx.Limit.blockBytes.contains(blockBytes) else {
            throw BlockError(.corrupt, "Invalid VHDX block size \(blockBytes)")
        }
        guard virtualSize <= Vhdx.Limit.virtualSize else {
            throw BlockError(.limit, "The VHDX disk is larger than 64 TiB (\(virtualSize) bytes)")
        }
        guard virtualSize % sectorBytes == 0 else {
            throw BlockError(.corrupt, "The VHDX disk's size \(virtualSize) is not one of whole sectors")
        }
    }

    /// The payload blocks per sector bitmap: 16 or more.
    var blocksPerChunk: Int { Vhdx.sectorsPerBitmap * sectorBytes / blockBytes }
    var blockCount: Int { Self.blocks(in: virtualSize, of: blockBytes) }
    var entryCount: Int { entryCount(forSize: virtualSize) }

    static func blocks(in size: Int, of bytes: Int) -> Int { size / bytes + (size % bytes == 0 ? 0 : 1) }

    /// The number of BAT entries for a disk of `size` bytes.
    func entryCount(forSize size: Int) -> Int {
        let blocks = Self.blocks(in: size, of: blockBytes)
        guard blocks > 0 else { return 0 }
        if hasParent { return ((blocks - 1) / blocksPerChunk + 1) * (blocksPerChunk + 1) }
        return blocks + (blocks - 1) / blocksPerChunk
    }

    /// The number of the BAT entry of a payload block.
    func entryIndex(ofBlock block: Int) -> Int { block + block / blocksPerChunk }
    /// The number of the BAT entry of the sector bitmap that covers a payload block.
    func bitmapIndex(forBlock block: Int) -> Int {
        block / blocksPerChunk * (blocksPerChunk + 1) + blocksPerChunk
    }

    /// The block of a BAT entry; `nil` for a sector bitmap's.
    func block(ofEntry index: Int) -> Int? {
        let inside = index % (blocksPerChunk + 1)
        return inside == blocksPerChunk ? nil : index / (blocksPerChunk + 1) * blocksPerChunk + inside
    }

    /// The first entry behind those of all blocks.
    var firstUnusedEntry: Int { blockCount == 0 ? 0 : entryIndex(ofBlock: blockCount - 1) + 1 }

    /// Whether an entry is in use: that of a block, or of a bitmap that covers one.
    func hasEntry(_ index: Int) -> Bool {
        guard index < entryCount else { return false }
        return block(ofEntry: index).map { $0 < blockCount } ?? true
    }

    /// The number of bytes of a block that belong to the disk.
    func bytes(ofBlock block: Int) -> Int { min(blockBytes, virtualSize - block * blockBytes) }
}
