import BlockCore

/// The header extension with the place of the bitmap directory (section "Bitmaps extension").
///
///     0 nb_bitmaps  4 reserved  8 bitmap_directory_size  16 bitmap_directory_offset
struct Qcow2BitmapExtension: Equatable, Sendable {
    var count: Int
    var directoryBytes: Int
    var directoryOffset: Int

    static let size = 24

    init(count: Int, directoryBytes: Int, directoryOffset: Int) {
        self.count = count
        self.directoryBytes = directoryBytes
        self.directoryOffset = directoryOffset
    }

    /// Reads the extension and checks everything that follows from it alone.
    ///
    /// - Throws: `corrupt` or `limit`.
    init(_ data: [UInt8], _ layout: Qcow2Layout) throws(BlockError) {
        let bytes = data.span.bytes
        guard let count: UInt32 = bytes.bigEndian(at: 0), let reserved: UInt32 = bytes.bigEndian(at: 4),
            let size: UInt64 = bytes.bigEndian(at: 8), let offset: UInt64 = bytes.bigEndian(at: 16),
            data.count == Self.size
        else { throw BlockError(.corrupt, "qcow2: The bitmaps extension has a wrong size") }
        guard reserved == 0 else {
            throw BlockError(.corrupt, "qcow2: The bitmaps extension has reserved bits set")
        }
        guard count > 0 else { throw BlockError(.corrupt, "qcow2: The bitmaps extension has no bitmaps") }
        guard count <= Qcow2.Limit.bitmaps, size <= Qcow2.Limit.bitmapDirectoryBytes else {
            throw BlockError(.limit, "qcow2: The image states too many bitmaps")
        }
        self.count = Int(count)
        directoryBytes = Int(size)
        directoryOffset = Int(clamping: offset)
        guard directoryOffset > 0, layout.isAligned(directoryOffset),
            directoryBytes >= self.count * (Qcow2BitmapEntry.fixedSize + 8)
        else { throw BlockError(.corrupt, "qcow2: The bitmap directory's place or size is invalid") }
    }

    func serialised() -> [UInt8] {
        [UInt8](zeroed: Self.size) { span in
            span.storeBigEndian(UInt32(count), at: 0)
            span.storeBigEndian(UInt64(directoryBytes), at: 8)
            span.storeBigEndian(UInt64(directoryOffset), at: 16)
        }
    }
}

/// An entry of the bitmap directory.
///
///     0 bitmap_table_offset  8 bitmap_table_size  12 flags  16 type  17 granularity_bits  18 name_size
///     20 extra_data_size  24 extra data, name, padding to 8
struct Qcow2BitmapEntry: Equatable, Sendable {
    /// Bits of `flags`.
    struct Flags: OptionSet, Sendable {
        let rawValue: UInt32
        static let inUse = Flags(rawValue: 1 << 0)
        static let auto = Flags(rawValue: 1 << 1)
        static let extraDataCompatible = Flags(rawValue: 1 << 2)
        static let known: Flags = [.inUse, .auto, .extraDataCompatible]
    }

    var tableOffset = 0
    /// The number of entries of the bitmap's table.
    var tableEntries = 0
    var flags: Flags = []
    var type: UInt8 = dirtyTracking
    var granularityBits: UInt8
    /// The name as stored, which need not be UTF-8.
    var name: [UInt8]
    /// Extra data, kept unchanged.
    var extra: [UInt8] = []
    /// The offset of the entry in the directory from which it was read.
    var position = 0

    static let fixedSize = 24
    static let flagsOffset = 12
    static let dirtyTracking: UInt8 = 1

    /// The name as text, repaired where it is not UTF-8.
    var nameText: String { String(raw: name) }
    /// Bytes of the disk for one bit; 0 where the exponent is too large.
    var granularity: Int { granularityBits < 63 ? 1 << Int(granularityBits) : 0 }

    /// Reads all entries of a directory.
    ///
    /// - Throws: `corrupt` when they do not fill it one behind the other.
    static func parse(_ directory: [UInt8], count: Int) throws(BlockError) -> [Qcow2BitmapEntry] {
        var entries: [Qcow2BitmapEntry] = []
        var position = 0
        while entries.count < count {
            guard let (entry, size) = parse(directory.span.bytes, at: position) else {
                throw BlockError(.corrupt, "qcow2: Bitmap directory entry \(entries.count) is damaged")
            }
            entries.append(entry)
            position += size
        }
        guard position == directory.count else {
            throw BlockError(.corrupt, "qcow2: The bitmap directory's size does not go with its entries")
        }
        return entries
    }

    private static func parse(
        _ bytes: RawSpan, at position: Int
    ) -> (entry: Qcow2BitmapEntry, size: Int)? {
        guard let offset: UInt64 = bytes.bigEndian(at: position),
            let entries: UInt32 = bytes.bigEndian(at: position + 8),
            let flags: UInt32 = bytes.bigEndian(at: position + flagsOffset),
            let type: UInt8 = bytes.bigEndian(at: position + 16),
            let granularityBits: UInt8 = bytes.bigEndian(at: position + 17),
            let nameSize: UInt16 = bytes.bigEndian(at: position + 18),
            let extraSize: UInt32 = bytes.bigEndian(at: position + 20)
        else { return nil }
        let extraStart = position + fixedSize
        let nameStart = extraStart + Int(extraSize)
        let end = nameStart + Int(nameSize)
        guard nameSize > 0, Int(nameSize) <= Qcow2.Limit.bitmapNameBytes,
            let extra = bytes.part(extraStart..<nameStart), let name = bytes.part(nameStart..<end),
            let size = (end - position).roundedUp(to: 8)
        else { return nil }
        let entry = Qcow2BitmapEntry(
            tableOffset: Int(clamping: offset), tableEntries: Int(entries), flags: Flags(rawValue: flags),
            type: type, granularityBits: granularityBits, name: name.array, extra: extra.array,
            position: position)
        return (entry, size)
    }

    /// The entry as stored in the directory, padded to 8 bytes.
    func serialised() -> [UInt8] {
        var bytes = [UInt8](zeroed: Self.fixedSize) { span in
            span.storeBigEndian(UInt64(tableOffset), at: 0)
            span.storeBigEndian(UInt32(tableEntries), at: 8)
            span.storeBigEndian(flags.rawValue, at: Self.flagsOffset)
            span.storeBigEndian(type, at: 16)
            span.storeBigEndian(granularityBits, at: 17)
            span.storeBigEndian(UInt16(name.count), at: 18)
            span.storeBigEndian(UInt32(extra.count), at: 20)
        }
        bytes += extra + name
        bytes += repeatElement(0, count: (8 - bytes.count % 8) % 8)
        return bytes
    }

    /// The number of bytes of ``serialised()``.
    static func size(nameBytes: Int, extraBytes: Int = 0) -> Int {
        (fixedSize + nameBytes + extraBytes + 7) & ~7
    }

    /// Whether everything but the table is as this program writes it.
    var isPlain: Bool {
        flags.isSubset(of: .known) && type == Self.dirtyTracking && extra.isEmpty
            && Qcow2.bitmapGranularityBits.contains(Int(granularityBits))
    }

    /// The reason why this program cannot use the bitmap even if it is sound; `nil` where it can.
    var obstacle: String? {
        if !Qcow2.bitmapGranularityBits.contains(Int(granularityBits)) {
            return "its granularity of 2^\(granularityBits) bytes is not supported"
        }
        if !extra.isEmpty && !flags.contains(.extraDataCompatible) { return "it has data of an unknown kind" }
        return nil
    }

    /// The damage of the bitmap that the directory shows; `nil` for none.
    ///
    /// - Parameters:
    ///   - virtualSize: of the disk, in bytes.
    ///   - fileClusters: how many clusters the file has.
    func damage(_ layout: Qcow2Layout, virtualSize: Int, fileClusters: Int) -> String? {
        if !flags.isSubset(of: .known) { return "reserved flags are set" }
        if type != Self.dirtyTracking { return "its type \(type) is not known" }
        if granularityBits > 63 { return "its granularity of 2^\(granularityBits) bytes is invalid" }
        if let table = tableDefect(layout, fileClusters: fileClusters) { return table }
        // A bitmap in use may still have the size of an earlier disk.
        guard !flags.contains(.inUse), granularity > 0 else { return nil }
        // QEMU's disks have whole sectors only.
        let size = virtualSize.roundedDown(to: Qcow2.sectorBytes)
        let bits = size / granularity + (size % granularity == 0 ? 0 : 1)
        return Self.tableEntries(forBits: bits, layout) == tableEntries
            ? nil : "its table does not go with the size of the disk"
    }

    /// The defect of the table's place or size; `nil` for none.
    func tableDefect(_ layout: Qcow2Layout, fileClusters: Int) -> String? {
        guard tableEntries > 0, tableEntries <= Qcow2.Limit.bitmapTableEntries else {
            return "its table has \(tableEntries) entries"
        }
        guard tableOffset > 0, layout.isAligned(tableOffset) else {
            return "its table's offset 0x\(hex(tableOffset)) is invalid"
        }
        let clusters = layout.clusters(tableEntries * 8)
        guard clusters <= fileClusters, tableOffset >> layout.clusterBits <= fileClusters - clusters else {
            return "its table reaches beyond the end of the file"
        }
        return nil
    }

    /// The positions of entries whose table overlaps another's. It is unknown whose bits the table has, so
    /// both are dropped: a bitmap that lacks a change loses data in the next backup, a missing one only makes
    /// that backup a full one.
    static func sharingTables(
        _ entries: [Qcow2BitmapEntry], _ layout: Qcow2Layout, fileClusters: Int
    ) -> Set<Int> {
        var tables: [(position: Int, start: Int, end: Int)] = []
        for entry in entries where entry.tableDefect(layout, fileClusters: fileClusters) == nil {
            let start = entry.tableOffset >> layout.clusterBits
            tables.append((entry.position, start, start + layout.clusters(entry.tableEntries * 8)))
        }
        tables.sort { $0.start < $1.start }
        var sharing: Set<Int> = []
        guard var reaching = tables.first else { return [] }
        for table in tables.dropFirst() {
            if table.start < reaching.end { sharing.formUnion([reaching.position, table.position]) }
            if table.end > reaching.end { reaching = table }
        }
        return sharing
    }

    /// The number of table entries for a bitmap of `bits` bits. A table without entries is not allowed.
    static func tableEntries(forBits bits: Int, _ layout: Qcow2Layout) -> Int {
        layout.clusters((bits + 7) / 8)
    }
}

/// An entry of a bitmap table: the place of one cluster of bits.
struct Qcow2BitmapTableEntry: Equatable, Sendable {
    var raw: UInt64

    static let allOnes = Qcow2BitmapTableEntry(raw: 1)

    /// The cluster's offset; 0 for none: then all its bits are equal, as ``isAllOnes`` says.
    var hostOffset: HostOffset { HostOffset(Int(raw & L2Entry.offsetMask)) }
    var isAllOnes: Bool { hostOffset == .zero && raw & 1 != 0 }

    /// The defect of the entry; `nil` for none.
    func defect(_ layout: Qcow2Layout, fileClusters: Int) -> String? {
        let known = hostOffset == .zero ? 1 : L2Entry.offsetMask
        if raw & ~known != 0 { return "reserved bits are set in table entry \(hex(raw))" }
        if !layout.isAligned(hostOffset) { return "data offset 0x\(hex(hostOffset)) is not aligned" }
        if layout.cluster(at: hostOffset).index >= max(fileClusters, 1) {
            return "data offset 0x\(hex(hostOffset)) is beyond the end of the file"
        }
        return nil
    }
}
