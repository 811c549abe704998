import BlockCore

/// Names, numbers and limits of Bochs' growing disk images (bochs.sourceforge.io, "Disk image modes").
enum Bochs {
    static let magic = "Bochs Virtual HD Image"
    static let type = "Redolog"
    static let subtype = "Growing"
    static let headerBytes = 512
    static let sectorBytes = 512
    static let unused: UInt32 = 0xFFFF_FFFF

    enum Limit {
        static let headerBytes = Int.mib(1)
        static let extentBytes = 512...(8 << 20)
        static let catalogEntries = 1 << 20
    }
}

/// The header.
struct BochsHeader {
    var headerBytes: Int
    var catalogEntries: Int
    var bitmapBytes: Int
    var extentBytes: Int
    var virtualSize: Int

    static func parse(_ bytes: [UInt8]) throws(BlockError) -> BochsHeader {
        let span = bytes.span.bytes
        func number(_ field: HeaderField<Self>) -> Int { Int(truncatingIfNeeded: field.number(in: span)) }
        guard bytes.count == Bochs.headerBytes, Field.magic.text(in: span) == Bochs.magic,
            Field.type.text(in: span) == Bochs.type, Field.subtype.text(in: span) == Bochs.subtype
        else { throw BlockError(.wrongFormat, "Image not in Bochs format") }
        let version = number(Field.version)
        guard version == 0x0002_0000 || version == 0x0001_0000 else {
            throw BlockError(.unsupported, "Bochs image version \(version >> 16) is not supported")
        }
        let size = (version == 0x0002_0000 ? Field.size : Field.version1Size).number(in: span)
        guard size < 1 << 60 else { throw BlockError(.corrupt, "The Bochs disk is too large") }
        let header = BochsHeader(
            headerBytes: number(Field.headerBytes), catalogEntries: number(Field.catalogEntries),
            bitmapBytes: number(Field.bitmapBytes), extentBytes: number(Field.extentBytes),
            virtualSize: Int(size).roundedDown(to: Bochs.sectorBytes))
        try header.validate()
        return header
    }

    private func validate() throws(BlockError) {
        guard Bochs.headerBytes...Bochs.Limit.headerBytes ~= headerBytes else {
            throw BlockError(.corrupt, "Bochs header size \(headerBytes) is not allowed")
        }
        guard extentBytes.isPowerOfTwo, Bochs.Limit.extentBytes.contains(extentBytes) else {
            throw BlockError(.corrupt, "Bochs extent size \(extentBytes) is not allowed")
        }
        guard catalogEntries <= Bochs.Limit.catalogEntries else {
            throw BlockError(.limit, "The Bochs catalog is too large (\(catalogEntries) entries)")
        }
        guard bitmapBytes >= (extentBytes / Bochs.sectorBytes + 7) / 8, bitmapBytes <= .mib(1) else {
            throw BlockError(.corrupt, "Bochs bitmap size \(bitmapBytes) is not allowed")
        }
        let needed = virtualSize / extentBytes + (virtualSize % extentBytes == 0 ? 0 : 1)
        guard needed <= catalogEntries else {
            throw BlockError(.corrupt, "The Bochs catalog is too small for the disk")
        }
    }
}

extension BochsHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    enum Field {
        static let magic = HeaderField<BochsHeader>("magic", at: 0x00, width: 32, "`Bochs Virtual HD Image`")
        static let type = HeaderField<BochsHeader>("type", at: 0x20, width: 16, "`Redolog`")
        static let subtype = HeaderField<BochsHeader>("subtype", at: 0x30, width: 16, "`Growing`")
        static let version = HeaderField<BochsHeader>("version", at: 0x40, width: 4, "0x20000 or 0x10000")
        static let headerBytes = HeaderField<BochsHeader>("header", at: 0x44, width: 4, "bytes of the header")
        static let catalogEntries = HeaderField<BochsHeader>(
            "catalog", at: 0x48, width: 4, "entries of the catalog, which follows the header")
        static let bitmapBytes = HeaderField<BochsHeader>(
            "bitmap", at: 0x4C, width: 4, "bytes of an extent's bitmap")
        static let extentBytes = HeaderField<BochsHeader>(
            "extent", at: 0x50, width: 4, "bytes of an extent, without its bitmap")
        static let size = HeaderField<BochsHeader>(
            "disk", at: 0x58, width: 8, "size of the disk, in bytes; in version 1 at 84")
        static let version1Size = HeaderField<BochsHeader>("disk", at: 0x54, width: 8, "in version 1")
    }

    static let allFields = [
        Field.magic, Field.type, Field.subtype, Field.version, Field.headerBytes, Field.catalogEntries,
        Field.bitmapBytes, Field.extentBytes, HeaderField("timestamp", at: 0x54, width: 4, "ignored"),
        Field.size,
    ]
}

/// Bochs' growing images: a catalog of extents, each with a bitmap of its stored sectors.
///
/// Read only.
///
/// Thread-safe without a lock: nothing changes after opening.
public final class BochsDriver: ReadOnlyFormat {
    public static let name = "bochs"

    private let file: BlockNode
    private let header: BochsHeader
    private let catalog: BlockTable
    private let dataOffset: Int
    private let bitmapSectors: Int

    private init(file: BlockNode, header: BochsHeader, catalog: BlockTable) {
        self.file = file
        self.header = header
        self.catalog = catalog
        dataOffset = header.headerBytes + header.catalogEntries * 4
        bitmapSectors = header.bitmapBytes.dividedRoundingUp(by: Bochs.sectorBytes)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.part(0..<Bochs.magic.utf8.count)?.array == Array(Bochs.magic.utf8) ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`, `readOnly`; `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> BochsDriver {
        do throws(BlockError) {
            try refuseWriting(request)
            let file = request.file
            let length = try file.length()
            let header = try BochsHeader.parse(
                try file.readBytes(at: 0, count: min(length, Bochs.headerBytes)))
            let catalogEnd = header.headerBytes + header.catalogEntries * 4
            guard catalogEnd <= length else {
                throw try file.cutError("The Bochs catalog", end: catalogEnd, at: header.headerBytes)
            }
            let catalog = try BlockTable(
                reading: file, at: header.headerBytes, count: header.catalogEntries, isBigEndian: false)
            return BochsDriver(file: file, header: header, catalog: catalog)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var virtualSize: Int { header.virtualSize }
    /// The size of an extent in the file, in bytes: its bitmap in whole sectors, and its data.
    private var blockBytes: Int { bitmapSectors * Bochs.sectorBytes + header.extentBytes }

    /// - Throws: `io`, `corrupt`.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let number = offset / header.extentBytes
        let inside = offset % header.extentBytes
        let most = min(limit, header.extentBytes - inside)
        let entry = number < catalog.count ? catalog[number] : Bochs.unused
        if entry == Bochs.unused { return Extent(.zero(hostOffset: nil), length: most) }
        let start = dataOffset + Int(entry) * blockBytes
        try file.requireStored(at: start, count: header.bitmapBytes)
        let bitmap = try file.readBytes(at: start, count: header.bitmapBytes)
        var sector = inside / Bochs.sectorBytes
        let isStored = Self.bit(sector, of: bitmap)
        let last = (inside + most - 1) / Bochs.sectorBytes
        while sector < last, Self.bit(sector + 1, of: bitmap) == isStored { sector += 1 }
        let length = min(most, (sector + 1) * Bochs.sectorBytes - inside)
        let host = start + bitmapSectors * Bochs.sectorBytes + inside
        return Extent(isStored ? .data(hostOffset: host) : .zero(hostOffset: nil), length: length)
    }

    private static func bit(_ number: Int, of bitmap: [UInt8]) -> Bool {
        number / 8 < bitmap.count && bitmap[number / 8] & 1 << UInt8(number % 8) != 0
    }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        FormatInfo(
            specific: [
                InfoField("subtype", .text(Bochs.subtype)),
                InfoField("extent-size", .number(header.extentBytes)),
            ])
    }
}

extension BochsDriver: Checkable {
    /// Checks that every extent has a block of its own inside the file, and that every block has an extent.
    ///
    /// - Throws: `unsupported` for a repair; `io`.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try refuseRepair(repair)
        var result = CheckResult()
        result.totalClusters = virtualSize.dividedRoundingUp(by: header.extentBytes)
        let blocks = max(0, try file.length() - dataOffset) / blockBytes
        var users: Set<Int> = []
        for number in 0..<catalog.count where catalog[number] != Bochs.unused {
            let block = Int(catalog[number])
            result.allocatedClusters += 1
            if block >= blocks {
                result.corruptions += 1
                report("ERROR extent \(number) is in block \(block), beyond the end of the file")
            } else if !users.insert(block).inserted {
                result.corruptions += 1
                report("ERROR extent \(number) is in block \(block), which another one uses too")
            }
        }
        result.leaks = blocks - users.count
        result.imageEndOffset = dataOffset + ((users.max() ?? -1) + 1) * blockBytes
        return result
    }
}
