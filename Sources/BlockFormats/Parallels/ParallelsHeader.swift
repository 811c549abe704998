import BlockCore

/// The header. Its fields are in ParallelsHeaderFields.swift.
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
        guard versionField.number(in: bytes) == UInt64(Parallels.version) else { return nil }
        return Parallels.Kind.allCases.first { kind in
            bytes.part(magicField.range)?.hasSameBytes(as: Array(kind.rawValue.utf8).span.bytes) == true
        }
    }

    /// - Throws: `wrongFormat` for other files; `corrupt` and `limit` with the reason.
    static func parse(_ bytes: [UInt8]) throws(BlockError) -> ParallelsHeader {
        let span = bytes.span.bytes
        guard bytes.count == Parallels.headerBytes, let kind = kind(span) else {
            throw BlockError(.wrongFormat, "Image not in Parallels format")
        }
        var header = ParallelsHeader(
            bytes: bytes, kind: kind, clusterBytes: 0, entryCount: 0, virtualSize: 0,
            inUse: Parallels.Use.closed, dataSector: 0, extensionSector: 0)
        try header.readFields(span)
        return header
    }

    /// A header for a new image.
    init(newOfSize size: Int, clusterBytes: Int) {
        var bytes = [UInt8](repeating: 0, count: Parallels.headerBytes)
        bytes.replaceSubrange(Self.magicField.range, with: Array(Parallels.Kind.clusters.rawValue.utf8))
        Self.versionField.store(UInt64(Parallels.version), in: &bytes)
        Self.headsField.store(UInt64(Self.heads), in: &bytes)
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
        Self.cylindersField.store(UInt64(UInt32(clamping: cylinders)), in: &bytes)
    }

    /// Clears the flag "empty image", bit 0.
    mutating func clearEmptyFlag() { bytes[Self.flagsField.offset] &= 0xFE }

    /// The bytes with the fields as they are now.
    func serialised() -> [UInt8] { fieldBytes(over: bytes) }
}
