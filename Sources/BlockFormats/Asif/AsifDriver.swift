import BlockCore

/// Names, numbers and limits of Apple's sparse images of macOS 26 (huven/asif-format describes them, from
/// observation; dissect.hypervisor reads them).
enum Asif {
    /// "shdw" as a big-endian number.
    static let magic: UInt32 = 0x7368_6477
    static let headerBytes = 0x50
    /// The low 55 bits of an entry are a chunk's number, 0 for none.
    static let chunkMask: UInt64 = 1 << 55 - 1
    /// Bits 62 and 63 of an entry: the state of a data chunk.
    enum State {
        static let none: UInt64 = 0
        static let whole: UInt64 = 1
        static let partly: UInt64 = 3
    }

    enum Limit {
        static let chunkBytes = 4096...(16 << 20)
        static let sectorBytes = 512...4096
        static let virtualSize = 1 << 60
        /// The largest number of tables in the directory.
        static let tables = 1 << 20
        /// The chunks of a file that a check accepts: a bit each, 16 MiB.
        static let checkedChunks = 1 << 27
    }

    /// The memory for cached tables and sector maps, in bytes.
    static let cacheBytes = 8 << 20
    static let sliceBytes = 4096
}

/// The header; its fields are in AsifHeaderFields.swift.
struct AsifHeader: Sendable, Equatable {
    var directories: [Int]
    var virtualSize: Int
    var chunkBytes: Int
    var sectorBytes: Int
    var tableCount: Int

    /// The data chunks that one chunk of 2-bit sector states covers; its entry follows theirs.
    var chunksPerGroup: Int { 4 * sectorBytes }
    var groupsPerTable: Int { chunkBytes / (8 * (chunksPerGroup + 1)) }
    /// Guest bytes that one table maps.
    var guestBytesPerTable: Int { groupsPerTable * chunksPerGroup * chunkBytes }

    static func parse(_ bytes: [UInt8], fileLength: Int) throws(BlockError) -> AsifHeader {
        guard bytes.count >= Asif.headerBytes, Field.magic.number(in: bytes) == UInt64(Asif.magic) else {
            throw BlockError(.wrongFormat, "Image not in ASIF format")
        }
        let version = Field.version.number(in: bytes)
        guard version == 1 else { throw BlockError(.unsupported, "ASIF version \(version) is not supported") }
        func number(_ field: HeaderField<Self>) throws(BlockError) -> Int {
            let value = field.number(in: bytes)
            guard value <= UInt64(Asif.Limit.virtualSize) else {
                throw BlockError(.corrupt, "A number in the ASIF header is too large (\(value))")
            }
            return Int(value)
        }
        let most = try number(Field.mostSectors)
        var header = AsifHeader(
            directories: [try number(Field.directory), try number(Field.otherDirectory)],
            virtualSize: try number(Field.sectors), chunkBytes: try number(Field.chunkBytes),
            sectorBytes: try number(Field.sectorBytes), tableCount: 0)
        try header.validate(sectorsAtMost: most, fileLength)
        return header
    }

    private mutating func validate(sectorsAtMost most: Int, _ fileLength: Int) throws(BlockError) {
        guard Asif.Limit.sectorBytes.contains(sectorBytes), sectorBytes.isPowerOfTwo else {
            throw BlockError(.corrupt, "ASIF sector size \(sectorBytes) is not allowed")
        }
        guard Asif.Limit.chunkBytes.contains(chunkBytes), chunkBytes.isPowerOfTwo, groupsPerTable > 0 else {
            throw BlockError(.corrupt, "ASIF chunk size \(chunkBytes) is not allowed")
        }
        guard virtualSize <= most, most <= Asif.Limit.virtualSize / sectorBytes else {
            throw BlockError(.corrupt, "ASIF disk size of \(virtualSize) sectors is not allowed")
        }
        virtualSize *= sectorBytes
        tableCount = virtualSize / guestBytesPerTable + (virtualSize % guestBytesPerTable == 0 ? 0 : 1)
        guard tableCount <= Asif.Limit.tables else {
            throw BlockError(.limit, "The ASIF disk is too large")
        }
        let bytes = 8 + tableCount * 8
        guard directories.allSatisfy({ $0 >= Asif.headerBytes && $0 <= fileLength - min(bytes, fileLength) }),
            bytes <= fileLength
        else { throw BlockError(.corrupt, "An ASIF directory is misplaced") }
    }
}

/// Apple's sparse images (ASIF): a directory of tables, whose entries refer to chunks.
///
/// Read only.
///
/// Thread-safe: a lock guards the cache of tables and sector maps. The metadata chunk is ignored.
public final class AsifDriver: ReadOnlyFormat {
    public static let name = "asif"

    let file: BlockNode
    let header: AsifHeader
    /// The offset of the valid directory in the file, in bytes.
    let directory: Int
    let fileLength: Int
    private let cache: Monitor<TableCache>

    private init(_ file: BlockNode, _ header: AsifHeader, directory: Int) throws(BlockError) {
        self.file = file
        self.header = header
        self.directory = directory
        fileLength = try file.length()
        cache = Monitor(
            TableCache(
                file: file, sliceSize: Asif.sliceBytes, budgetBytes: Asif.cacheBytes, loadEvent: .l2Load))
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.bigEndian(at: 0) == Asif.magic && header.bigEndian(at: 4) == UInt32(1) ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`, `readOnly`; `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> AsifDriver {
        do throws(BlockError) {
            try refuseWriting(request)
            let file = request.file
            let length = try file.length()
            let header = try AsifHeader.parse(
                try file.readBytes(at: 0, count: min(length, Asif.headerBytes)), fileLength: length)
            var best: (offset: Int, sequence: UInt64)?
            for offset in header.directories {
                let number = try file.readBytes(at: offset, count: 8)
                let sequence: UInt64 = number.span.bytes.bigEndian(at: 0) ?? 0
                if best.map({ sequence > $0.sequence }) ?? true { best = (offset, sequence) }
            }
            let directory = best?.offset ?? 0
            if !request.settings.metadataOnly && !request.settings.forCheck {
                try TableRepeats.check(
                    file, at: directory + 8, count: header.tableCount, unit: 1,
                    entriesPerTable: header.guestBytesPerTable / header.sectorBytes
                ) { bytes, offset in (bytes.bigEndian(at: offset) ?? 0) & Asif.chunkMask }
            }
            return try AsifDriver(file, header, directory: directory)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var virtualSize: Int { header.virtualSize }
    /// Partly written chunks may have holes in the file.
    public var dataMayBeHoles: Bool { true }

    private func corrupt(_ message: String, at offset: Int) -> BlockError {
        BlockError(.corrupt, message, path: file.filename, offset: offset)
    }

    /// The big-endian number at an offset of the file.
    private func number(at place: Int, _ cache: TableCache) throws(BlockError) -> UInt64 {
        let slot = try cache.slot(at: place.roundedDown(to: Asif.sliceBytes))
        let slice = cache.bytes(of: slot)
        let inside = place % Asif.sliceBytes
        if let number: UInt64 = slice.bytes.bigEndian(at: inside) { return number }
        let whole = try file.readBytes(at: place, count: 8)
        return whole.span.bytes.bigEndian(at: 0) ?? 0
    }

    /// The last chunk may reach behind the end of the file, and reads as zeroes there.
    public func shortFileRule(ofChild child: Int) -> ShortFileRule {
        .lastUnitMayBeShort(unitBytes: header.chunkBytes)
    }

    /// The offset of a chunk, also one behind the end of the file.
    private func place(of entry: UInt64, _ what: String, at guest: Int) throws(BlockError) -> Int {
        let (place, overflow) = Int(entry & Asif.chunkMask).multipliedReportingOverflow(by: header.chunkBytes)
        guard !overflow, place > 0, place <= Int.max - header.chunkBytes else {
            throw corrupt("\(what) is misplaced (chunk \(entry & Asif.chunkMask))", at: guest)
        }
        return place
    }

    /// The offset of a chunk with a table, which must be in the file.
    private func tablePlace(of entry: UInt64, _ what: String, at guest: Int) throws(BlockError) -> Int {
        let place = try place(of: entry, what, at: guest)
        guard place < fileLength else {
            throw try file.cutError(what, end: place + header.chunkBytes, at: place)
        }
        return place
    }

    /// - Throws: `corrupt`, `unsupported`, `io`.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try cache.withLock { (cache) throws(BlockError) in
            let perTable = header.guestBytesPerTable
            let tableEntry = try number(at: directory + 8 + offset / perTable * 8, cache)
            if tableEntry & Asif.chunkMask == 0 {
                return Extent(.zero(hostOffset: nil), length: min(limit, perTable - offset % perTable))
            }
            let table = try tablePlace(of: tableEntry, "A table", at: offset)
            let chunk = offset % perTable / header.chunkBytes
            let inside = offset % header.chunkBytes
            let most = min(limit, header.chunkBytes - inside)
            let group = chunk / header.chunksPerGroup
            let groupPlace = table + group * 8 * (header.chunksPerGroup + 1)
            let index = chunk % header.chunksPerGroup
            let entry = try number(at: groupPlace + index * 8, cache)
            switch entry >> 62 {
            case Asif.State.none where entry & Asif.chunkMask == 0:
                let run = try run(from: groupPlace, index, entry, step: 0, inside, limit, cache)
                return Extent(.zero(hostOffset: nil), length: run)
            case Asif.State.whole:
                let host = try place(of: entry, "A chunk", at: offset)
                let run = try run(from: groupPlace, index, entry, step: 1, inside, limit, cache)
                return Extent(.data(hostOffset: host + inside), length: run)
            case Asif.State.partly:
                let host = try place(of: entry, "A chunk", at: offset)
                let mapEntry = try number(at: groupPlace + header.chunksPerGroup * 8, cache)
                let map = try tablePlace(of: mapEntry, "A sector map", at: offset)
                return try part(host, map, index, inside, most, offset, cache)
            default: throw unknown("chunk", entry >> 62, at: offset)
            }
        }
    }

    /// The length in bytes of a run that starts `inside` bytes into an entry's chunk: each next entry of the
    /// group is `step` larger.
    private func run(
        from group: Int, _ index: Int, _ entry: UInt64, step: UInt64, _ inside: Int, _ limit: Int,
        _ cache: TableCache
    ) throws(BlockError) -> Int {
        var count = 1
        while index + count < header.chunksPerGroup, count * header.chunkBytes - inside < limit,
            try number(at: group + (index + count) * 8, cache) == entry &+ step &* UInt64(count)
        {
            count += 1
        }
        return min(limit, count * header.chunkBytes - inside)
    }

    private func unknown(_ what: String, _ state: UInt64, at offset: Int) -> BlockError {
        BlockError(
            .unsupported, "The state \(state) of a \(what) is not known", path: file.filename, offset: offset)
    }

    /// A run of a partly stored chunk: two bits per sector, the first sector in the lowest bits.
    private func part(
        _ host: Int, _ map: Int, _ index: Int, _ inside: Int, _ most: Int, _ offset: Int, _ cache: TableCache
    ) throws(BlockError) -> Extent {
        let first = inside / header.sectorBytes
        let perChunk = header.chunkBytes / header.sectorBytes
        func state(_ sector: Int) throws(BlockError) -> UInt64 {
            let bit = (index * perChunk + sector) * 2
            let slot = try cache.slot(at: (map + bit / 8).roundedDown(to: Asif.sliceBytes))
            let slice = cache.bytes(of: slot)
            let byte: UInt8 = slice.bytes.bigEndian(at: (map + bit / 8) % Asif.sliceBytes) ?? 0
            return UInt64(byte >> UInt8(bit % 8) & 3)
        }
        let isStored = try state(first)
        guard isStored < 2 else { throw unknown("sector", isStored, at: offset) }
        let last = (inside + most - 1) / header.sectorBytes
        var sector = first
        while sector < last, try state(sector + 1) == isStored { sector += 1 }
        let length = min(most, (sector + 1) * header.sectorBytes - inside)
        return Extent(
            isStored == 1 ? .data(hostOffset: host + inside) : .zero(hostOffset: nil), length: length)
    }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        FormatInfo(
            clusterSizeBytes: header.chunkBytes,
            specific: [InfoField("sector-size", .number(header.sectorBytes))])
    }
}
