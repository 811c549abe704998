import BlockCore

/// The tables of an SEsparse extent (vSphere's snapshots), which is only read.
///
/// A directory entry has 1 in its top four bits, and the number of a table in the low half. The top four bits
/// of a table entry are 0 for unallocated, 1 and 2 for zeroes, 3 for a grain. The next lower 12 bits are the
/// low bits of the grain's number, and the rest are its high bits.
///
/// Not thread-safe: the driver's lock guards it. Sendable is unchecked: only the driver's monitor passes it
/// between threads.
final class VmdkSESparse: @unchecked Sendable {
    static let headerBytes = 512
    private static let version: UInt64 = 0x2_0000_0001
    private static let volatileMagic: UInt64 = 0xCAFE_CAFE
    private static let grainSectors = 8
    private static let tableSectors = 64
    static let entriesPerTable = tableSectors * Vmdk.sectorBytes / 8
    private static let mostKeptTables = 256

    enum Place: Equatable {
        case none
        case zero
        case grain(hostOffset: Int)
    }

    let file: BlockNode
    let capacitySectors: Int
    let grainBytes = grainSectors * Vmdk.sectorBytes
    private let tablesOffset: Int
    private let tableCount: Int
    private let grainsOffset: Int
    let length: Int
    private let directory: [UInt64]
    private var tables: [Int: [UInt64]] = [:]
    private var keptTables = mostKeptTables
    var directoryEntries: Int { directory.count }

    /// - Parameter mostEntries: the largest number of directory entries.
    /// - Throws: `wrongFormat`, `corrupt`, `limit`; `unsupported` for a journal that was not replayed.
    init(file: BlockNode, mostEntries: Int) throws(BlockError) {
        self.file = file
        length = try file.length()
        let header = try file.readBytes(at: 0, count: min(Self.headerBytes, length))
        typealias Header = VmdkSESparseHeader
        guard Header.magic.number(in: header) == Vmdk.seSparseMagic,
            Header.version.number(in: header) == Self.version
        else { throw BlockError(.wrongFormat, "The file is no SEsparse extent", path: file.filename) }
        func sectors(_ field: HeaderField<Header>) throws(BlockError) -> Int {
            try VmdkSparseHeader.checked(field.number(in: header), at: field.offset)
        }
        func bytes(_ field: HeaderField<Header>) throws(BlockError) -> Int {
            try sectors(field) * Vmdk.sectorBytes
        }
        capacitySectors = try sectors(Header.capacity)
        let (grain, table) = (try sectors(Header.grain), try sectors(Header.table))
        guard grain == Self.grainSectors, table == Self.tableSectors else {
            throw BlockError(.unsupported, "Unsupported grain size or table size of an SEsparse extent")
        }
        try Self.refuseJournal(file, at: bytes(Header.volatileHeader))
        let count = capacitySectors / (Self.entriesPerTable * Self.grainSectors) + 1
        let directoryBytes = try bytes(Header.directorySize)
        let offset = try bytes(Header.directory)
        guard count <= mostEntries, (count - 1) * 8 <= directoryBytes,
            directoryBytes <= length, offset <= length - directoryBytes
        else {
            throw BlockError(.corrupt, "The grain directory does not fit the disk", path: file.filename)
        }
        let stored = try file.readBytes(at: offset, count: min(count * 8, directoryBytes))
        let entries = stored.span.bytes
        directory = (0..<stored.count / 8).map { entries.littleEndian(at: $0 * 8) ?? 0 }
        tablesOffset = try bytes(Header.tables)
        tableCount = try sectors(Header.tablesSize) / Self.tableSectors
        grainsOffset = try bytes(Header.grains)
    }

    private static func refuseJournal(_ file: BlockNode, at offset: Int) throws(BlockError) {
        let bytes = try file.readBytes(at: offset, count: Vmdk.sectorBytes)
        typealias Header = VmdkSESparseHeader.Volatile
        guard Header.magic.number(in: bytes) == volatileMagic else {
            throw BlockError(.corrupt, "The volatile header is damaged", path: file.filename, offset: offset)
        }
        guard Header.replay.number(in: bytes) == 0 else {
            throw BlockError(
                .unsupported, "The extent has a journal that must be replayed first", path: file.filename)
        }
    }

    /// - Throws: `limit` for a directory that refers to the same tables too often.
    func checkRepeats() throws(BlockError) {
        var repeats = TableRepeats(capacity: directory.count)
        for entry in directory where entry != 0 { repeats.note(entry & 0xFFFF_FFFF &+ 1) }
        try repeats.check(entriesPerTable: Self.entriesPerTable, path: file.filename)
    }

    /// Limits the memory for tables to this extent's share.
    func keepTables(within bytes: Int) {
        keptTables = max(1, min(Self.mostKeptTables, bytes / (Self.tableSectors * Vmdk.sectorBytes)))
    }

    // MARK: Looking up

    /// The place of a grain, and the length of its run of at most `limit` grains. An unreadable entry ends
    /// the run; the read of its own grain reports it.
    func run(at grain: Int, limit: Int) throws(BlockError) -> (place: Place, count: Int) {
        let first = try place(grain)
        var count = 0
        while count < limit {
            let start = (grain + count) % Self.entriesPerTable
            let most = min(limit - count, Self.entriesPerTable - start)
            var same = 0
            do throws(BlockError) {
                if let table = try table((grain + count) / Self.entriesPerTable) {
                    same = like(first, count, table[start..<start + most])
                } else if first == .none {
                    same = most
                }
            } catch {}
            count += same
            if same < most { break }
        }
        return (first, max(count, 1))
    }

    /// The number of entries that continue the run of `place`, which is `distance` entries before them.
    private func like(_ place: Place, _ distance: Int, _ entries: ArraySlice<UInt64>) -> Int {
        switch place {
        case .none: return entries.prefix { $0 == 0 }.count
        case .zero: return entries.prefix { $0 >> 60 == 1 || $0 >> 60 == 2 }.count
        case .grain(let host):
            var next = host + distance * grainBytes
            return entries.prefix { entry in
                defer { next += grainBytes }
                return (try? self.place(ofEntry: entry)) == .grain(hostOffset: next)
            }.count
        }
    }

    /// For each table, whether one with a lower number has the same place.
    var sharedTables: [Bool] {
        let order = directory.indices.filter { directory[$0] != 0 }
            .sorted { (directory[$0], $0) < (directory[$1], $1) }
        var shared = [Bool](repeating: false, count: directory.count)
        for (first, second) in zip(order, order.dropFirst()) where directory[first] == directory[second] {
            shared[second] = true
        }
        return shared
    }

    /// Whether a table exists and is readable.
    func hasTable(_ number: Int) -> Bool { (try? table(number)) != nil }

    private func place(_ grain: Int) throws(BlockError) -> Place {
        guard let table = try table(grain / Self.entriesPerTable) else { return .none }
        return try place(ofEntry: table[grain % Self.entriesPerTable])
    }

    private func place(ofEntry entry: UInt64) throws(BlockError) -> Place {
        switch entry >> 60 {
        case 0 where entry == 0: return .none
        case 1, 2: return .zero
        case 3:
            let number = (entry >> 48) & 0xFFF | (entry & 0xFFFF_FFFF_FFFF) << 12
            guard let host = place(ofGrain: Int(clamping: number)) else {
                throw corrupt("A grain is misplaced")
            }
            return .grain(hostOffset: host)
        default: throw corrupt("A grain table has an entry of an unknown kind")
        }
    }

    /// The offset of a grain, also one behind the end of the file: the node reports lost data.
    private func place(ofGrain number: Int) -> Int? {
        let (bytes, overflow) = number.multipliedReportingOverflow(by: grainBytes)
        return overflow || bytes > Int.max / 2 - grainsOffset ? nil : grainsOffset + bytes
    }

    private func table(_ number: Int) throws(BlockError) -> [UInt64]? {
        if let table = tables[number] { return table }
        guard directory.indices.contains(number), directory[number] != 0 else { return nil }
        let (kind, index) = (directory[number] >> 32, Int(directory[number] & 0xFFFF_FFFF))
        guard kind == 0x1000_0000, index < tableCount else {
            throw corrupt("The grain directory has a bad entry")
        }
        let offset = tablesOffset + index * Self.tableSectors * Vmdk.sectorBytes
        let end = offset + Self.tableSectors * Vmdk.sectorBytes
        guard end <= length else { throw try file.cutError("A grain table", end: end, at: offset) }
        let bytes = try file.readBytes(at: offset, count: Self.entriesPerTable * 8)
        let span = bytes.span.bytes
        if tables.count >= keptTables { tables = [:] }
        let table = (0..<Self.entriesPerTable).map { span.littleEndian(UInt64.self, at: $0 * 8) ?? 0 }
        tables[number] = table
        return table
    }

    private func corrupt(_ message: String) -> BlockError {
        BlockError(.corrupt, message, path: file.filename)
    }
}
