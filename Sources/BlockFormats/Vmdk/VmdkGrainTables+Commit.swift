import BlockCore

/// A grain table in memory: the sector of each grain, 0 for none. Sendable is unchecked: only the driver's
/// monitor passes it between threads.
final class VmdkGrainTable: @unchecked Sendable {
    var entries: [UInt32]
    /// The sectors of the table that differ from the file.
    var dirty: Range<Int>?
    /// Whether the whole table has allocated space in the file.
    var hasSpace = false

    init(entries: [UInt32]) { self.entries = entries }

    func set(_ index: Int, to sector: UInt32) {
        guard entries[index] != sector else { return }
        entries[index] = sector
        let place = index * 4 / Vmdk.sectorBytes
        dirty = min(dirty?.lowerBound ?? place, place)..<max(dirty?.upperBound ?? place + 1, place + 1)
    }
}

/// Writing changes to the file, in the order documented at ``VmdkGrainTables``.
extension VmdkGrainTables {
    /// Makes all changes durable.
    func commit() throws(BlockError) {
        // Older changes of the same tables are written first.
        try held.writes?.complete()
        guard hasChanges else { return }
        if headerIsUncertain { try storeHeader() }
        if hasUnflushedData { try file.flush() }
        guard directoryIsDirty || !dirtyTables.isEmpty else {
            hasUnflushedData = false
            return
        }
        // A COW disk's header holds the end of the used part of its file.
        if header.kind == .cow { try writeFirstFree() }
        if directoryIsDirty { try writeDirectories() }
        let numbers = dirtyTables.sorted()
        if let redundant { for number in numbers { try write(number, at: redundant[number]) } }
        for number in numbers { try write(number, at: directory[number]) }
        try file.flush()
        for number in numbers { tables[number]?.dirty = nil }
        dirtyTables = []
        directoryIsDirty = false
        hasUnflushedData = false
    }

    private func write(_ number: Int, at sector: UInt32) throws(BlockError) {
        guard let part = part(number, at: sector) else { return }
        try file.write(part.bytes.span.bytes, at: part.offset)
    }

    /// The changed sectors of a table, for its copy at `sector`.
    private func part(_ number: Int, at sector: UInt32) -> TableWrites.Part? {
        guard sector != 0, let table = tables[number], let dirty = table.dirty else { return nil }
        let perSector = Vmdk.sectorBytes / 4
        let entries = table.entries[dirty.lowerBound * perSector..<dirty.upperBound * perSector]
        return TableWrites.Part(
            offset: (Int(sector) + dirty.lowerBound) * Vmdk.sectorBytes, bytes: Self.bytes(Array(entries)))
    }

    // MARK: Writing without the lock

    /// The changes that were taken out.
    struct Held {
        var writes: TableWrites?
        /// The changed sectors of tables.
        var tables: [Int: Range<Int>] = [:]
        var hasDirectory = false
    }

    /// Takes out all changes, in the order of ``commit()``. Returns `nil` if they were written directly: the
    /// header of a COW disk must follow its tables.
    func takeChanges() throws(BlockError) -> TableWrites? {
        if headerIsUncertain { try storeHeader() }
        guard header.kind != .cow || (!directoryIsDirty && dirtyTables.isEmpty) else {
            try commit()
            return nil
        }
        let numbers = dirtyTables.sorted()
        var parts = directoryIsDirty ? directoryParts() : []
        if let redundant { parts += numbers.compactMap { part($0, at: redundant[$0]) } }
        parts += numbers.compactMap { part($0, at: directory[$0]) }
        let writes = TableWrites([TableWrites.Step(parts: parts)], to: file)
        held = Held(writes: writes, hasDirectory: directoryIsDirty)
        for number in numbers {
            held.tables[number] = tables[number]?.dirty
            tables[number]?.dirty = nil
        }
        dirtyTables = []
        directoryIsDirty = false
        hasUnflushedData = false
        return writes
    }

    /// Releases the changes that were taken out; after a failed write they count as changes again.
    func settle(failed: Bool) {
        let done = held
        held = Held()
        guard failed, done.writes != nil else { return }
        for (number, sectors) in done.tables {
            guard let table = tables[number] else { continue }
            let dirty = table.dirty ?? sectors
            table.dirty =
                min(dirty.lowerBound, sectors.lowerBound)..<max(dirty.upperBound, sectors.upperBound)
            dirtyTables.insert(number)
        }
        directoryIsDirty = directoryIsDirty || done.hasDirectory
        hasUnflushedData = true
    }

    static func bytes(_ entries: [UInt32]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: entries.count * 4)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        for (index, entry) in entries.enumerated() { span.storeLittleEndian(entry, at: index * 4) }
        return bytes
    }

    private func writeDirectories() throws(BlockError) {
        for part in directoryParts() { try file.write(part.bytes.span.bytes, at: part.offset) }
    }

    private func directoryParts() -> [TableWrites.Part] {
        var parts: [TableWrites.Part] = []
        if let redundant, let offset = header.redundantDirectoryOffset {
            parts.append(TableWrites.Part(offset: offset, bytes: Self.bytes(redundant)))
        }
        return parts + [TableWrites.Part(offset: header.directoryOffset, bytes: Self.bytes(directory))]
    }

    private func writeFirstFree() throws(BlockError) {
        let sector = UInt32(clamping: end / Vmdk.sectorBytes)
        VmdkSparseHeader.CowField.firstFree.store(UInt64(sector), in: &header.bytes)
        try writeHeader()
    }

    private func writeHeader() throws(BlockError) {
        let bytes = header.serialised()
        try file.write(bytes.span.bytes, at: 0)
        header.bytes = bytes
    }

    /// Writes the header. Durable on return. After a failure the next commit starts with the header in
    /// memory.
    func storeHeader() throws(BlockError) {
        headerIsUncertain = true
        try writeHeader()
        try file.flush()
        headerIsUncertain = false
    }
}
