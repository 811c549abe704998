import BlockCore

/// The region table ([MS-VHDX] 2.2.3): the places of the BAT and the metadata. The file has two copies. The
/// entries follow the table's header.
struct VhdxRegions: Sendable, Equatable {
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
        guard bytes.byteCount == Vhdx.regionTableBytes, signatureField.number(in: bytes) == signature,
            checksumField.isChecksum(of: bytes)
        else { return nil }
        let count = Int(truncatingIfNeeded: countField.number(in: bytes))
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
        let offset = Region.offsetField.number(in: bytes, from: place)
        let length = Int(truncatingIfNeeded: Region.lengthField.number(in: bytes, from: place))
        guard offset <= UInt64(Vhdx.Limit.fileBytes), offset >= UInt64(Vhdx.unitBytes),
            offset % UInt64(Vhdx.unitBytes) == 0, length % Vhdx.unitBytes == 0
        else {
            throw BlockError(.corrupt, "A VHDX region is misplaced (\(length) bytes at \(offset))")
        }
        return Region(
            guid: Region.guidField.uuid(in: bytes, from: place), range: Int(offset)..<Int(offset) + length,
            isRequired: Region.requiredField.number(in: bytes, from: place) & 1 != 0)
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
        var result = fieldBytes(count: Vhdx.regionTableBytes)
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        for (index, region) in all.enumerated() {
            let place = Self.entriesOffset + index * Self.entryBytes
            var entry = span.slice(place..<place + Self.entryBytes)
            region.writeFields(to: &entry)
        }
        Self.checksumField.storeChecksum(in: &span)
        return result
    }
}

extension VhdxRegions: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    private static let signature: UInt64 = 0x6967_6572
    private static let signatureField = HeaderField<VhdxRegions>(
        "Signature", at: 0, width: 4, "`regi`", value: { _ in signature })
    private static let checksumField = HeaderField<VhdxRegions>(
        "Checksum", at: 4, width: 4, "CRC-32C of 64 KiB")
    private static let countField = HeaderField<VhdxRegions>(
        "EntryCount", at: 8, width: 4, "entries, of 32 bytes each: at most 2047",
        value: { UInt64($0.all.count) })

    static let allFields = [
        signatureField, checksumField, countField, HeaderField("Reserved", at: 12, width: 4, "0"),
    ]
}

extension VhdxRegions.Region: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let guidField = HeaderField<Self>("Guid", at: 0, \.guid, "which region it is")
    static let offsetField = HeaderField<Self>(
        "FileOffset", at: 16, width: 8, "offset in the file, in bytes",
        value: { UInt64($0.range.lowerBound) })
    static let lengthField = HeaderField<Self>(
        "Length", at: 24, width: 4, "its bytes", value: { UInt64($0.range.count) })
    static let requiredField = HeaderField<Self>(
        "Required", at: 28, width: 4, "bit 0: a program that does not know the region must refuse the file",
        value: { $0.isRequired ? 1 : 0 })

    static let allFields = [guidField, offsetField, lengthField, requiredField]
}
