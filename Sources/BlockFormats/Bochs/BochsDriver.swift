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

/// The header, all little-endian:
///
/// ```
/// 00 magic (32)  20 type (16)  30 subtype (16)  40 version  44 header size  48 catalog entries
/// 4C bitmap size  50 extent size  54 time (version 2 only)  then the disk size (8)
/// ```
private struct BochsHeader {
    var headerBytes: Int
    var catalogEntries: Int
    var bitmapBytes: Int
    var extentBytes: Int
    var virtualSize: Int

    static func parse(_ bytes: [UInt8]) throws(BlockError) -> BochsHeader {
        let span = bytes.span.bytes
        func number(_ offset: Int) -> Int {
            let value: UInt32? = span.littleEndian(at: offset)
            return Int(value ?? 0)
        }
        func text(_ range: Range<Int>) -> String {
            String((span.text(range) ?? "").prefix { $0 != "\0" })
        }
        guard bytes.count == Bochs.headerBytes, text(0..<32) == Bochs.magic, text(32..<48) == Bochs.type,
            text(48..<64) == Bochs.subtype
        else { throw BlockError(.wrongFormat, "Image not in Bochs format") }
        let version = number(0x40)
        guard version == 0x0002_0000 || version == 0x0001_0000 else {
            throw BlockError(.unsupported, "Bochs image version \(version >> 16) is not supported")
        }
        let size: UInt64 = span.littleEndian(at: version == 0x0002_0000 ? 0x58 : 0x54) ?? 0
        guard size < 1 << 60 else { throw BlockError(.corrupt, "The Bochs disk is too large") }
        let header = BochsHeader(
            headerBytes: number(0x44), catalogEntries: number(0x48), bitmapBytes: number(0x4C),
            extentBytes: number(0x50), virtualSize: Int(size).roundedDown(to: Bochs.sectorBytes))
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
