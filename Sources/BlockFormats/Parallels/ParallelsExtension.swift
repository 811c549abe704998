import BlockCore

/// The format extension: a cluster with sections for features that the header has no fields for.
///
/// ```
/// 00 magic (8)    08 MD5 of the rest of the cluster (16)    18 sections
/// section: 00 magic (8)  08 flags (8)  10 size of the data (4)  14 unused (4)  18 data, to a multiple of 8
/// ```
struct ParallelsExtension: Sendable {
    static let magic: UInt64 = 0xAB23_4CEF_23DC_EA87
    static let headerBytes = 24
    static let sectionHeaderBytes = 24

    struct Section: Sendable, Equatable {
        static let end: UInt64 = 0
        static let dirtyBitmap: UInt64 = 0x2038_5FAE_252C_B34A

        var magic: UInt64
        var flags: UInt64 = 0
        var data: [UInt8]

        /// Whether a program that cannot read the section must not change the image.
        var isNecessary: Bool { flags & 1 != 0 }
        /// Whether a program that does not know the section keeps it unchanged.
        var isTransit: Bool { flags & 2 != 0 }
        /// Its size in the cluster, in bytes.
        var storedBytes: Int { sectionHeaderBytes + (data.count + 7) / 8 * 8 }
    }

    /// The sections in the cluster's bytes, without the end mark.
    ///
    /// - Throws: `corrupt` with the reason; `limit`.
    static func parse(_ bytes: RawSpan) throws(BlockError) -> [Section] {
        let stated: UInt64? = bytes.littleEndian(at: 0)
        guard stated == magic else { throw BlockError(.corrupt, "its magic number is wrong") }
        guard let sum = bytes.part(8..<24), sum.array == (try checksum(bytes)) else {
            throw BlockError(.corrupt, "its checksum is wrong")
        }
        var sections: [Section] = []
        var offset = headerBytes
        while true {
            guard let magic: UInt64 = bytes.littleEndian(at: offset),
                let flags: UInt64 = bytes.littleEndian(at: offset + 8),
                let size: UInt32 = bytes.littleEndian(at: offset + 16),
                bytes.byteCount - offset >= sectionHeaderBytes
            else { throw BlockError(.corrupt, "it has no end mark") }
            if magic == Section.end { return sections }
            let start = offset + sectionHeaderBytes
            guard let data = bytes.part(start..<start + Int(size)) else {
                throw BlockError(.corrupt, "a section is longer than the cluster")
            }
            guard sections.count < Parallels.Limit.extensionSections else {
                throw BlockError(.limit, "it has too many sections")
            }
            sections.append(Section(magic: magic, flags: flags, data: data.array))
            offset += sections[sections.count - 1].storedBytes
        }
    }

    /// The size of these sections in a cluster, in bytes, with the end mark.
    static func bytesNeeded(_ sections: [Section]) -> Int {
        sections.reduce(headerBytes + sectionHeaderBytes) { $0 + $1.storedBytes }
    }

    /// The bytes of a cluster with these sections, which must fit.
    static func serialised(_ sections: [Section], clusterBytes: Int) throws(BlockError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: clusterBytes)
        guard bytesNeeded(sections) <= clusterBytes else {
            throw BlockError(.noSpace, "The format extension does not fit into a cluster")
        }
        store(sections, in: &bytes)
        let sum = try checksum(bytes.span.bytes)
        bytes.replaceSubrange(8..<24, with: sum)
        return bytes
    }

    private static func store(_ sections: [Section], in bytes: inout [UInt8]) {
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        span.storeLittleEndian(magic, at: 0)
        var offset = headerBytes
        for section in sections {
            span.storeLittleEndian(section.magic, at: offset)
            span.storeLittleEndian(section.flags, at: offset + 8)
            span.storeLittleEndian(UInt32(section.data.count), at: offset + 16)
            span.copy(from: section.data.span.bytes, at: offset + sectionHeaderBytes)
            offset += section.storedBytes
        }
    }

    private static func checksum(_ bytes: RawSpan) throws(BlockError) -> [UInt8] {
        guard let rest = bytes.part(headerBytes..<max(headerBytes, bytes.byteCount)) else { return [] }
        return try LibCrypto.md5(rest)
    }
}

/// A dirty bitmap in the format extension.
///
/// ```
/// 00 size in sectors (8)  08 UUID (16)  18 granularity in sectors (4)  1C entries (4)  20 entries (8 each)
/// ```
///
/// Each entry stands for one cluster of bitmap bytes: 0 all clear, 1 all set, otherwise the sector at which
/// they begin.
struct ParallelsBitmap: Sendable {
    static let headerBytes = 32
    static let allClear: UInt64 = 0
    static let allSet: UInt64 = 1

    var id: ImageUUID
    /// The bytes of the disk that one bit stands for.
    var granularity: Int
    var flags: UInt64 = 0
    /// The entries that locate the stored bits.
    var entries: [UInt64] = []
    /// The bits, once they were read or made.
    var bits: DirtyBitmap?
    /// The reason for which the bits are unusable; `nil` when they are usable.
    var obstacle: String?

    /// The size of the stored bits for a disk, in bytes.
    static func storedBytes(diskBytes: Int, granularity: Int) -> Int {
        let bits = diskBytes / granularity + (diskBytes % granularity == 0 ? 0 : 1)
        return bits / 8 + (bits % 8 == 0 ? 0 : 1)
    }

    /// Reads a section. A bitmap that does not fit the disk gets an ``obstacle``.
    ///
    /// - Throws: `corrupt` for a section too short to name its bitmap.
    init(_ section: ParallelsExtension.Section, diskBytes: Int, clusterBytes: Int) throws(BlockError) {
        let bytes = section.data.span.bytes
        guard let sectors: UInt64 = bytes.littleEndian(at: 0), let name = bytes.part(8..<24),
            let granules: UInt32 = bytes.littleEndian(at: 24), let count: UInt32 = bytes.littleEndian(at: 28)
        else { throw BlockError(.corrupt, "a dirty bitmap is too short") }
        id = ImageUUID(bytes: name.array)
        granularity = Int(granules) * Parallels.sectorBytes
        flags = section.flags
        guard granularity.isPowerOfTwo else {
            granularity = Parallels.sectorBytes
            obstacle = "its granularity is wrong"
            return
        }
        let stored = Self.storedBytes(diskBytes: diskBytes, granularity: granularity)
        guard sectors == UInt64(diskBytes / Parallels.sectorBytes) else {
            obstacle = "it is for a disk of another size"
            return
        }
        guard Int(count) == stored / clusterBytes + (stored % clusterBytes == 0 ? 0 : 1),
            bytes.byteCount >= Self.headerBytes + Int(count) * 8
        else {
            obstacle = "its table has a wrong size"
            return
        }
        guard stored <= Parallels.Limit.bitmapBytes else {
            obstacle = "it has too many bits"
            return
        }
        entries = (0..<Int(count)).map { bytes.littleEndian(at: Self.headerBytes + $0 * 8) ?? 0 }
    }

    /// A new bitmap with all bits clear.
    init(_ id: ImageUUID, diskBytes: Int, granularity: Int) throws(BlockError) {
        self.id = id
        self.granularity = granularity
        bits = try DirtyBitmap(size: diskBytes, granularity: granularity)
    }

    /// The offsets of its clusters in the file, in bytes; `nil` when an entry is out of range.
    var clusterOffsets: [Int]? {
        let stored = entries.filter { $0 != Self.allClear && $0 != Self.allSet }
        let most = UInt64(Parallels.Limit.virtualSize / Parallels.sectorBytes)
        guard stored.allSatisfy({ $0 <= most }) else { return nil }
        return stored.map { Int($0) * Parallels.sectorBytes }
    }

    /// The section for a disk of that size.
    func section(diskBytes: Int) -> ParallelsExtension.Section {
        var data = [UInt8](repeating: 0, count: Self.headerBytes + entries.count * 8)
        data.replaceSubrange(8..<24, with: id.bytes)
        var elements = data.mutableSpan
        var span = elements.mutableBytes
        span.storeLittleEndian(UInt64(diskBytes / Parallels.sectorBytes), at: 0)
        span.storeLittleEndian(UInt32(granularity / Parallels.sectorBytes), at: 24)
        span.storeLittleEndian(UInt32(entries.count), at: 28)
        for (index, entry) in entries.enumerated() {
            span.storeLittleEndian(entry, at: Self.headerBytes + index * 8)
        }
        return ParallelsExtension.Section(
            magic: ParallelsExtension.Section.dirtyBitmap, flags: flags, data: data)
    }
}
