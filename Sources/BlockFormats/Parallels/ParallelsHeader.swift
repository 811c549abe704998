import BlockCore

/// The header, all little-endian:
///
/// ```
/// 00 magic (16)       10 version 2     14 heads       18 cylinders    1C sectors in a cluster
/// 20 entries of BAT   24 disk size, in sectors (8)    2C in use       30 data offset, in sectors
/// 34 flags            38 format extension's offset, in sectors (8)    40 BAT
/// ```
///
/// It shares its sector with the first entries, so only its own bytes are written.
struct ParallelsHeader: Sendable, Equatable {
    /// The bytes in the file; the fields below replace their part of them.
    var bytes: [UInt8]

    var kind: Parallels.Kind
    var clusterBytes: Int
    var entryCount: Int
    var virtualSize: Int
    var inUse: UInt32
    /// The start of the data area, in sectors; 0 for directly behind the table.
    var dataSector: Int
    /// The start of the format extension, in sectors; 0 for none.
    var extensionSector: Int

    /// The end of the table, in bytes from the start of the file.
    var tableEnd: Int { Parallels.headerBytes + entryCount * Parallels.entryBytes }
    /// The unit of an entry, in bytes.
    var entryUnit: Int { kind == .clusters ? clusterBytes : Parallels.sectorBytes }
    var wasClosed: Bool { inUse == Parallels.Use.closed || inUse == Parallels.Use.closedByOld }
    /// The number of entries for a disk of `size` bytes.
    func entries(forSize size: Int) -> Int { size.dividedRoundingUp(by: clusterBytes) }

    static func kind(_ bytes: RawSpan) -> Parallels.Kind? {
        let version: UInt32? = bytes.littleEndian(at: 16)
        guard version == Parallels.version else { return nil }
        return Parallels.Kind.allCases.first { kind in
            bytes.part(0..<16)?.hasSameBytes(as: Array(kind.rawValue.utf8).span.bytes) == true
        }
    }

    /// - Throws: `wrongFormat` for other files; `corrupt` and `limit` with the reason.
    static func parse(_ bytes: [UInt8]) throws(BlockError) -> ParallelsHeader {
        let span = bytes.span.bytes
        guard bytes.count == Parallels.headerBytes, let kind = kind(span) else {
            throw BlockError(.wrongFormat, "Image not in Parallels format")
        }
        let clusterSectors = span.number(0x1C)
        guard clusterSectors > 0 else {
            throw BlockError(.corrupt, "Invalid image: Zero sectors per track")
        }
        guard clusterSectors <= Parallels.Limit.clusterSectors else {
            throw BlockError(.limit, "Invalid image: Too big cluster")
        }
        guard span.number(0x20) <= Parallels.Limit.entries else {
            throw BlockError(.limit, "Catalog too large")
        }
        // The older kind has only 32 bits for the size.
        let sectors: UInt64 =
            kind == .clusters ? span.littleEndian(at: 0x24) ?? 0 : UInt64(span.number(0x24))
        let extensionSector: UInt64 = span.littleEndian(at: 0x38) ?? 0
        guard sectors <= UInt64(Parallels.Limit.virtualSize / Parallels.sectorBytes),
            extensionSector <= UInt64(Parallels.Limit.virtualSize / Parallels.sectorBytes)
        else {
            throw BlockError(.limit, "Invalid image: The disk is too large")
        }
        return ParallelsHeader(
            bytes: bytes, kind: kind, clusterBytes: clusterSectors * Parallels.sectorBytes,
            entryCount: span.number(0x20), virtualSize: Int(sectors) * Parallels.sectorBytes,
            inUse: UInt32(span.number(0x2C)), dataSector: span.number(0x30),
            extensionSector: Int(extensionSector))
    }

    /// A header for a new image.
    init(newOfSize size: Int, clusterBytes: Int) {
        var bytes = [UInt8](repeating: 0, count: Parallels.headerBytes)
        bytes.replaceSubrange(0..<16, with: Array(Parallels.Kind.clusters.rawValue.utf8))
        bytes[16] = UInt8(Parallels.version)
        bytes[20] = UInt8(Self.heads)
        self.init(
            bytes: bytes, kind: .clusters, clusterBytes: clusterBytes, entryCount: 0, virtualSize: size,
            inUse: Parallels.Use.closed, dataSector: 0, extensionSector: 0)
        entryCount = entries(forSize: size)
        let clusters = tableEnd.dividedRoundingUp(by: clusterBytes)
        dataSector = clusters * clusterBytes / Parallels.sectorBytes
        setCylinders()
    }

    private init(
        bytes: [UInt8], kind: Parallels.Kind, clusterBytes: Int, entryCount: Int, virtualSize: Int,
        inUse: UInt32, dataSector: Int, extensionSector: Int
    ) {
        self.bytes = bytes
        self.kind = kind
        self.clusterBytes = clusterBytes
        self.entryCount = entryCount
        self.virtualSize = virtualSize
        self.inUse = inUse
        self.dataSector = dataSector
        self.extensionSector = extensionSector
    }

    /// The geometry that QEMU gives its images.
    private static let heads = 16
    private static let sectorsPerTrack = 32

    /// Derives the number of cylinders from the size.
    mutating func setCylinders() {
        let cylinders = virtualSize / Parallels.sectorBytes / Self.heads / Self.sectorsPerTrack
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        span.storeLittleEndian(UInt32(clamping: cylinders), at: 0x18)
    }

    /// Clears the flag "empty image", bit 0.
    mutating func clearEmptyFlag() { bytes[0x34] &= 0xFE }

    /// The bytes with the fields as they are now.
    func serialised() -> [UInt8] {
        var result = bytes
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        span.storeLittleEndian(UInt32(clusterBytes / Parallels.sectorBytes), at: 0x1C)
        span.storeLittleEndian(UInt32(entryCount), at: 0x20)
        span.storeLittleEndian(UInt64(virtualSize / Parallels.sectorBytes), at: 0x24)
        span.storeLittleEndian(inUse, at: 0x2C)
        span.storeLittleEndian(UInt32(dataSector), at: 0x30)
        span.storeLittleEndian(UInt64(extensionSector), at: 0x38)
        return result
    }
}

extension RawSpan {
    /// The 32-bit little-endian number at `offset`, 0 past the end.
    fileprivate func number(_ offset: Int) -> Int {
        let value: UInt32? = littleEndian(at: offset)
        return Int(value ?? 0)
    }
}
