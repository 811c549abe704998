import BlockCore

/// The properties of a new image and the places of its parts: header section, log, BAT, metadata, blocks.
struct VhdxPlan {
    var geometry = VhdxGeometry()
    var isFixed = false
    /// Whether unwritten blocks get the zero entry instead of the absent one.
    var marksZero = true
    var logBytes = Vhdx.unitBytes
    var locator: VhdxParentLocator?

    static let defaultLogBytes = "1048576"
    private static let gigabyte = 1 << 30

    /// - Throws: `invalidArgument`, `limit`, with qemu-img's messages.
    init(_ options: CreateOptions) throws(BlockError) {
        let size = options.integer(.size) ?? 0
        guard size <= Vhdx.Limit.virtualSize else {
            throw BlockError(.limit, "Image size too large; max of 64TB")
        }
        geometry.virtualSize = size.roundedUp(to: geometry.sectorBytes) ?? size
        logBytes = try Self.logBytes(options.integer(.logSize) ?? Vhdx.unitBytes)
        geometry.blockBytes = try Self.blockBytes(options.integer(.blockSize) ?? 0, diskBytes: size)
        marksZero = options[.blockStateZero].map { $0 == "on" } ?? true
        switch options[.subformat] ?? "dynamic" {
        case "dynamic": break
        case "fixed": isFixed = true
        case let other:
            throw BlockError(
                .invalidArgument, "Parameter 'subformat' does not accept value '\(other)'")
        }
    }

    private static func logBytes(_ stated: Int) throws(BlockError) -> Int {
        guard stated < 4 * gigabyte else {
            throw BlockError(.limit, "Log size must be smaller than 4 GB")
        }
        guard stated > 0, let rounded = stated.roundedUp(to: Vhdx.unitBytes), rounded < 4 * gigabyte else {
            throw BlockError(.invalidArgument, "Log size must be a multiple of 1 MB")
        }
        return rounded
    }

    /// The block size in bytes. A stated 0 derives it from the disk's size; other sizes are rounded to whole
    /// MiB and clamped to the limits.
    private static func blockBytes(_ stated: Int, diskBytes: Int) throws(BlockError) -> Int {
        if stated == 0 {
            if diskBytes > 32 << 40 { return 64 << 20 }
            if diskBytes > 100 * gigabyte { return 32 << 20 }
            return diskBytes > gigabyte ? 16 << 20 : 8 << 20
        }
        let rounded = stated.roundedUp(to: Vhdx.unitBytes) ?? Vhdx.Limit.blockBytes.upperBound
        guard rounded.isPowerOfTwo || rounded > Vhdx.Limit.blockBytes.upperBound else {
            throw BlockError(.invalidArgument, "Block size must be a power of two")
        }
        return min(rounded, Vhdx.Limit.blockBytes.upperBound)
    }

    // MARK: Places

    var logRange: Range<Int> { Vhdx.unitBytes..<Vhdx.unitBytes + logBytes }

    var batRange: Range<Int> {
        let bytes = max(geometry.entryCount * 8, 1).roundedUp(to: Vhdx.unitBytes) ?? Vhdx.unitBytes
        return logRange.upperBound..<logRange.upperBound + bytes
    }

    var metadataRange: Range<Int> { batRange.upperBound..<batRange.upperBound + Vhdx.unitBytes }

    /// The length of the file with `blocks` blocks in it.
    func fileBytes(blocks: Int) -> Int { metadataRange.upperBound + blocks * geometry.blockBytes }

    /// Entry number `index` of the BAT.
    func entry(_ index: Int) -> UInt64 {
        guard let block = geometry.block(ofEntry: index), block < geometry.blockCount else { return 0 }
        if isFixed {
            return Vhdx.entry(
                .fullyPresent, at: metadataRange.upperBound + block * geometry.blockBytes)
        }
        return marksZero && !geometry.hasParent ? Vhdx.zeroEntry : 0
    }

    // MARK: Metadata

    /// The table and the items of the metadata region, without the zeroes behind them.
    func metadata(diskID: ImageUUID) -> [UInt8] {
        let (required, ofDisk) = (VhdxMetadataEntry.requiredFlag, VhdxMetadataEntry.diskFlag)
        let parameters = VhdxFileParameters(
            blockBytes: geometry.blockBytes, leavesBlocksAllocated: isFixed, hasParent: geometry.hasParent)
        var items: [(guid: ImageUUID, flags: Int, bytes: [UInt8])] = [
            (Vhdx.Item.fileParameters, required, parameters.serialised()),
            (
                Vhdx.Item.virtualSize, required | ofDisk,
                Self.numbers([
                    UInt32(truncatingIfNeeded: geometry.virtualSize), UInt32(geometry.virtualSize >> 32),
                ])
            ),
            (Vhdx.Item.diskID, required | ofDisk, diskID.mixedEndian),
            (Vhdx.Item.logicalSector, required | ofDisk, Self.numbers([UInt32(geometry.sectorBytes)])),
            (Vhdx.Item.physicalSector, required | ofDisk, Self.numbers([4096])),
        ]
        if let locator { items.append((Vhdx.Item.parentLocator, required, locator.serialised())) }
        var result = VhdxMetadataTable(entryCount: items.count).fieldBytes(count: VhdxMetadata.tableBytes)
        for (index, item) in items.enumerated() {
            let entry = VhdxMetadataEntry(
                guid: item.guid, offset: result.count, length: item.bytes.count, flags: item.flags)
            let place = VhdxMetadataTable.entryOffset(index)
            result.replaceSubrange(
                place..<place + VhdxMetadataEntry.byteCount, with: entry.serialised())
            result += item.bytes
        }
        return result
    }

    private static func numbers(_ numbers: [UInt32]) -> [UInt8] {
        numbers.flatMap { number in (0..<4).map { UInt8(truncatingIfNeeded: number >> ($0 * 8)) } }
    }
}
