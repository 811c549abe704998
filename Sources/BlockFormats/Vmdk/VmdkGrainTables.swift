import BlockCore

/// The grain directory and grain tables of one sparse extent; the used tables are in memory.
///
/// Not thread-safe: the driver's lock guards it.
///
/// The order of writes:
///
/// 1. grains, and new grain tables full of zeroes; a flush;
/// 2. entries of directories and tables, the redundant ones first; a flush.
///
/// Reads use the primary tables only, so the redundant ones may be behind or ahead after a crash. After a
/// crash at any point the worst result is a grain without a reference.
///
/// Sendable is unchecked: only the driver's monitor passes it between threads.
final class VmdkGrainTables: @unchecked Sendable {
    /// The largest number of tables in memory.
    private static let mostKeptTables = 4096
    private var keptTables = mostKeptTables
    /// The largest number of changed tables in memory.
    private var keptChanges: Int { max(1, keptTables / 4) }

    let file: BlockNode
    var header: VmdkSparseHeader
    /// The sectors of the tables, primary and redundant.
    var directory: [UInt32]
    var redundant: [UInt32]?
    var space: TailSpace
    /// The end of the used part of the file, in bytes.
    var end: Int { space.end }
    var hasUnflushedData = false
    /// Whether a failed write left the header in the file undefined.
    var headerIsUncertain = false
    /// Whether the redundant directory replaces the primary one, until a check has written the header.
    var hasLostDirectory = false
    var directoryIsDirty = false
    var tables: [Int: VmdkGrainTable] = [:]
    var dirtyTables: Set<Int> = []
    /// The changes that a flush is writing without the lock.
    var held = Held()
    /// The sectors of all tables, ascending; computed on first use.
    var tableSectors: [UInt32]?

    /// Reads the directories of an extent whose header was checked.
    ///
    /// - Parameter forCheck: whether an unreadable primary directory is replaced by the redundant one.
    /// - Throws: `corrupt`.
    init(file: BlockNode, header: VmdkSparseHeader, forCheck: Bool = false) throws(BlockError) {
        self.file = file
        self.header = header
        grainBytes = header.grainBytes
        let length = try file.length()
        if let offset = header.redundantDirectoryOffset {
            do throws(BlockError) {
                redundant = try Self.readDirectory(offset, header, file, length)
            } catch {
                guard error.kind == .corrupt else { throw error }
            }
        }
        do throws(BlockError) {
            directory = try Self.readDirectory(header.directoryOffset, header, file, length)
        } catch {
            guard forCheck, error.kind == .corrupt, let copy = redundant else { throw error }
            directory = copy
            redundant = nil
            hasLostDirectory = true
            self.header.directoryOffset = header.redundantDirectoryOffset ?? 0
            self.header.redundantDirectoryOffset = nil
            self.header.flags &= ~Vmdk.Flag.redundantTables
        }
        space = TailSpace(end: length.roundedUp(to: Vmdk.sectorBytes) ?? length)
    }

    private static func readDirectory(
        _ offset: Int, _ header: VmdkSparseHeader, _ file: BlockNode, _ length: Int
    ) throws(BlockError) -> [UInt32] {
        let bytes = header.directoryEntries * 4
        guard offset > 0, offset <= Int.max - bytes else {
            throw BlockError(
                .corrupt, "The grain directory is misplaced", path: file.filename, offset: offset)
        }
        guard bytes <= length, offset <= length - bytes else {
            throw try file.cutError("The grain directory", end: offset + bytes, at: offset)
        }
        return try readNumbers(file, at: offset, count: header.directoryEntries)
    }

    private static func readNumbers(
        _ file: BlockNode, at offset: Int, count: Int
    ) throws(BlockError) -> [UInt32] {
        let bytes = try file.readBytes(at: offset, count: count * 4)
        let span = bytes.span.bytes
        return (0..<count).map { span.littleEndian(at: $0 * 4) ?? 0 }
    }

    let grainBytes: Int
    var entriesPerTable: Int { header.tableEntries }
    var grainCount: Int { (header.capacitySectors + header.grainSectors - 1) / header.grainSectors }
    var hasChanges: Bool {
        directoryIsDirty || !dirtyTables.isEmpty || hasUnflushedData || headerIsUncertain
    }

    /// Limits the memory for tables to this extent's share.
    func keepTables(within bytes: Int) {
        keptTables = max(2, min(Self.mostKeptTables, bytes / header.tableBytes))
    }

    // MARK: Looking up

    /// The table of that number; `nil` when the directory has none.
    ///
    /// - Throws: `corrupt` for one outside the file; `io`.
    func table(_ number: Int) throws(BlockError) -> VmdkGrainTable? {
        if let table = tables[number] { return table }
        guard directory.indices.contains(number), directory[number] != 0 else { return nil }
        let offset = Int(directory[number]) * Vmdk.sectorBytes
        guard try file.storedCount(at: offset, count: header.tableBytes) == header.tableBytes else {
            throw try file.cutError("Grain table \(number)", end: offset + header.tableBytes, at: offset)
        }
        let table = VmdkGrainTable(
            entries: try Self.readNumbers(file, at: offset, count: header.tableEntries))
        if tables.count >= keptTables { tables = tables.filter { isKept($0.key) } }
        tables[number] = table
        return table
    }

    private func isKept(_ number: Int) -> Bool {
        dirtyTables.contains(number) || held.tables[number] != nil
    }

    /// Whether a table has unwritten changes.
    func isChanged(_ number: Int) -> Bool { dirtyTables.contains(number) }

    /// The redundant copy of a table, read from the file; `nil` when there is no readable copy.
    func redundantTable(_ number: Int) throws(BlockError) -> [UInt32]? {
        guard let redundant, redundant.indices.contains(number), redundant[number] != 0 else { return nil }
        let offset = Int(redundant[number]) * Vmdk.sectorBytes
        guard offset <= end - header.tableBytes else { return nil }
        return try Self.readNumbers(file, at: offset, count: header.tableEntries)
    }

    /// The host offset of a stored grain, which must begin inside the file.
    ///
    /// - Throws: `corrupt`.
    func hostOffset(_ entry: UInt32) throws(BlockError) -> Int {
        let offset = Int(entry) * Vmdk.sectorBytes
        if offset >= end { space.reach(try file.length()) }
        guard offset < end else { throw try file.cutError("A grain", end: offset + grainBytes, at: offset) }
        return offset
    }

    // MARK: Metadata

    /// Whether a range of the file touches the header, the descriptor, a directory or a table.
    func isMetadata(_ range: Range<Int>) -> Bool {
        if fixedMetadata.contains(where: { $0.overlaps(range) }) { return true }
        let sectors: [UInt32] =
            tableSectors ?? (directory + (redundant ?? [])).filter { $0 != 0 }.sorted()
        tableSectors = sectors
        let first = range.lowerBound / Vmdk.sectorBytes - header.tableSectors + 1
        var (low, high) = (0, sectors.count)
        while low < high {
            let middle = (low + high) / 2
            if Int(sectors[middle]) < first { low = middle + 1 } else { high = middle }
        }
        return low < sectors.count && Int(sectors[low]) * Vmdk.sectorBytes < range.upperBound
    }

    /// Header, descriptor and directories.
    var fixedMetadata: [Range<Int>] {
        let headerBytes = header.kind == .cow ? 4 * Vmdk.sectorBytes : VmdkSparseHeader.hostedBytes
        var ranges = [0..<headerBytes]
        if header.descriptorOffset > 0 {
            ranges.append(header.descriptorOffset..<header.descriptorOffset + header.descriptorBytes)
        }
        for offset in [header.directoryOffset, header.redundantDirectoryOffset ?? 0] where offset > 0 {
            ranges.append(offset..<offset + header.directoryBytes)
        }
        return ranges
    }

    // MARK: Changing

    /// Takes space for new grains or tables.
    ///
    /// - Throws: `noSpace` beyond the offsets that entries can hold.
    func allocate(_ bytes: Int) throws(BlockError) -> Int {
        let whole = bytes.roundedUp(to: Vmdk.sectorBytes) ?? bytes
        let limit = Vmdk.Limit.fileSectors * Vmdk.sectorBytes
        let floor = min(header.overheadBytes, limit)
        guard let offset = space.take(whole, unit: Vmdk.sectorBytes, floor: floor, limit: limit) else {
            throw BlockError(.noSpace, "A sparse extent cannot have more than 2 TiB", path: file.filename)
        }
        return offset
    }

    /// Gives back space that never had an entry.
    ///
    /// - Parameter firstGrain: the first grain for which it was taken, if the grains read as zeroes.
    func giveBack(_ offset: Int, _ bytes: Int, firstGrain: Int? = nil) {
        let whole = bytes.roundedUp(to: Vmdk.sectorBytes) ?? bytes
        space.giveBack(offset..<offset + whole, guest: firstGrain.map { $0 * grainBytes })
    }

    /// Links unused gaps, as holes, to grains that read as zeroes, so that they are no leaks.
    private func fillGaps() throws(BlockError) {
        for gap in space.takeZeroGaps() where gap.guest % grainBytes == 0 {
            for index in 0..<gap.range.count / grainBytes {
                let grain = gap.guest / grainBytes + index
                guard grain < grainCount, try !isPlace(run(at: grain, limit: 1).entry) else { continue }
                let host = gap.range.lowerBound + index * grainBytes
                try file.writeZeroes(at: host, count: grainBytes)
                try prepareToLink(grain..<grain + 1)
                try link(grain..<grain + 1) { _ in UInt32(host / Vmdk.sectorBytes) }
            }
        }
    }

    /// Removes unused space as far as possible, before the file is closed.
    func tidyUp() throws(BlockError) {
        // A gap that cannot be filled stays a leak.
        try? fillGaps()
        try commit()
        space.trim(file)
    }

    /// Makes the tables for entries of grains and allocates their space in the file: a full disk must refuse
    /// the request before anything refers to the grains.
    func prepareToLink(_ grains: Range<Int>) throws(BlockError) {
        guard let last = grains.last else { return }
        for number in grains.lowerBound / entriesPerTable...last / entriesPerTable {
            let table = try writableTable(number)
            if table.hasSpace { continue }
            try reserve(Int(directory[number]) * Vmdk.sectorBytes, header.tableBytes)
            if let redundant { try reserve(Int(redundant[number]) * Vmdk.sectorBytes, header.tableBytes) }
            table.hasSpace = true
        }
    }

    private func reserve(_ offset: Int, _ bytes: Int) throws(BlockError) {
        if offset > 0 { try file.fillHoles(in: offset..<offset + bytes) }
    }

    /// Links grains; makes missing tables.
    func link(_ grains: Range<Int>, _ entry: (_ grain: Int) -> UInt32) throws(BlockError) {
        for grain in grains { try set(grain, to: entry(grain)) }
        try commitIfCrowded()
    }

    /// Sets one entry; the caller calls ``commitIfCrowded()`` after the last.
    func set(_ grain: Int, to entry: UInt32) throws(BlockError) {
        let number = grain / entriesPerTable
        let table = try writableTable(number)
        table.set(grain % entriesPerTable, to: entry)
        if table.dirty != nil { dirtyTables.insert(number) }
        hasUnflushedData = true
    }

    /// Commits when more tables are changed than may be kept in memory.
    func commitIfCrowded() throws(BlockError) {
        if dirtyTables.count > keptChanges { try commit() }
    }

    /// The table of that number, which is made if there is none.
    func writableTable(_ number: Int) throws(BlockError) -> VmdkGrainTable {
        if let table = try table(number) { return table }
        guard directory.indices.contains(number) else {
            throw BlockError(.corrupt, "There is no grain table \(number)", path: file.filename)
        }
        try reserve(header.directoryOffset, header.directoryBytes)
        try reserve(header.redundantDirectoryOffset ?? 0, header.directoryBytes)
        let primary = try newTable()
        if redundant != nil, redundant?[number] == 0 {
            do throws(BlockError) {
                redundant?[number] = UInt32(try newTable() / Vmdk.sectorBytes)
            } catch {
                giveBack(primary, header.tableBytes)
                throw error
            }
        }
        directory[number] = UInt32(primary / Vmdk.sectorBytes)
        directoryIsDirty = true
        hasUnflushedData = true
        tableSectors = nil
        let table = VmdkGrainTable(entries: [UInt32](repeating: 0, count: header.tableEntries))
        tables[number] = table
        return table
    }

    private func newTable() throws(BlockError) -> Int {
        let offset = try allocate(header.tableBytes)
        do throws(BlockError) {
            try file.writeReservedZeroes(at: offset, count: header.tableBytes)
        } catch {
            giveBack(offset, header.tableBytes)
            throw error
        }
        return offset
    }
}
