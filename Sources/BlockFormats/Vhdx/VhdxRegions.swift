import BlockCore

/// The region table ([MS-VHDX] 2.2.3): the places of the BAT and the metadata. The file has two copies.
///
/// ```
/// 00 "regi"   04 CRC-32C   08 number of entries   10 entries: 00 GUID  10 offset  18 length  1C required
/// ```
struct VhdxRegions: Sendable, Equatable {
    private static let signature = 0x6967_6572
    private static let entriesOffset = 16
    private static let entryBytes = 32

    struct Region: Sendable, Equatable {
        var guid: ImageUUID
        var range: Range<Int>
        var isRequired: Bool
    }

    var all: [Region]

    /// The regions in a copy of the table; `nil` when its signature or checksum is wrong.
    ///
    /// - Throws: `corrupt` and `unsupported` for a table with a valid checksum that is unusable.
    static func parse(_ bytes: RawSpan) throws(BlockError) -> VhdxRegions? {
        let sum: UInt32? = bytes.littleEndian(at: 4)
        guard bytes.byteCount == Vhdx.regionTableBytes, bytes.number32(0) == signature,
            let sum, bytes.crc32c(zeroing: 4) == sum
        else { return nil }
        let count = bytes.number32(8)
        guard count <= Vhdx.Limit.tableEntries else {
            throw BlockError(.corrupt, "The VHDX region table has \(count) entries")
        }
        var regions: [Region] = []
        for index in 0..<count {
            regions.append(try region(bytes, entriesOffset + index * entryBytes))
        }
        let table = VhdxRegions(all: regions)
        try table.validate()
        return table
    }

    private static func region(_ bytes: RawSpan, _ place: Int) throws(BlockError) -> Region {
        let offset = bytes.number64(place + 16)
        let length = bytes.number32(place + 24)
        guard offset <= UInt64(Vhdx.Limit.fileBytes), offset >= UInt64(Vhdx.unitBytes),
            offset % UInt64(Vhdx.unitBytes) == 0, length % Vhdx.unitBytes == 0
        else {
            throw BlockError(.corrupt, "A VHDX region is misplaced (\(length) bytes at \(offset))")
        }
        return Region(
            guid: bytes.guid(at: place), range: Int(offset)..<Int(offset) + length,
            isRequired: bytes.number32(place + 28) & 1 != 0)
    }

    private func validate() throws(BlockError) {
        let sorted = all.sorted { $0.range.lowerBound < $1.range.lowerBound }
        for (one, next) in zip(sorted, sorted.dropFirst())
        where one.range.upperBound > next.range.lowerBound {
            throw BlockError(.corrupt, "Two VHDX regions overlap", offset: next.range.lowerBound)
        }
        for guid in [Vhdx.Region.bat, Vhdx.Region.metadata] where all.count(where: { $0.guid == guid }) > 1 {
            throw BlockError(.corrupt, "The VHDX region table names a region twice")
        }
        for region in all where ![Vhdx.Region.bat, Vhdx.Region.metadata].contains(region.guid) {
            guard !region.isRequired else {
                throw BlockError(.unsupported, "The VHDX image needs an unknown region (\(region.guid.text))")
            }
        }
    }

    /// The place of a region, in bytes of the file.
    ///
    /// - Throws: `corrupt` when the table lacks it, or it overlaps the log.
    func range(of guid: ImageUUID, beside log: Range<Int>) throws(BlockError) -> Range<Int> {
        guard let region = all.first(where: { $0.guid == guid }), !region.range.isEmpty else {
            throw BlockError(.corrupt, "The VHDX image has no region \(guid.text)")
        }
        guard !region.range.overlaps(log) else {
            throw BlockError(.corrupt, "A VHDX region lies over the log", offset: log.lowerBound)
        }
        return region.range
    }

    /// Reads the first valid copy.
    ///
    /// - Returns: the regions, and the numbers of the copies that are damaged.
    static func read(_ view: VhdxView) throws(BlockError) -> (regions: VhdxRegions, damaged: [Int]) {
        var result: VhdxRegions?
        var damaged: [Int] = []
        for offset in Vhdx.regionTableOffsets {
            let bytes = try view.read(at: offset, count: Vhdx.regionTableBytes)
            guard let regions = try parse(bytes.span.bytes) else {
                damaged.append(offset)
                continue
            }
            if let result, result != regions { damaged.append(offset) }
            result = result ?? regions
        }
        guard let result else { throw BlockError(.corrupt, "The VHDX image has no valid region table") }
        return (result, damaged)
    }

    /// A copy of the table, with its checksum.
    func serialised() -> [UInt8] {
        var result = [UInt8](repeating: 0, count: Vhdx.regionTableBytes)
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        span.storeLittleEndian(UInt32(Self.signature), at: 0)
        span.storeLittleEndian(UInt32(all.count), at: 8)
        for (index, region) in all.enumerated() {
            let place = Self.entriesOffset + index * Self.entryBytes
            span.store(region.guid, at: place)
            span.storeLittleEndian(UInt64(region.range.lowerBound), at: place + 16)
            span.storeLittleEndian(UInt32(region.range.count), at: place + 24)
            span.storeLittleEndian(UInt32(region.isRequired ? 1 : 0), at: place + 28)
        }
        let sum = span.bytes.crc32c(zeroing: 4) ?? 0
        span.storeLittleEndian(sum, at: 4)
        return result
    }
}
