import BlockCore

/// A grain table in memory: the sector of each grain, 0 where there is none.
final class VmdkGrainTable {
    var entries: [UInt32]
    /// The sectors of the table that differ from the file.
    var dirty: Range<Int>?

    init(entries: [UInt32]) { self.entries = entries }

    func set(_ index: Int, to sector: UInt32) {
        guard entries[index] != sector else { return }
        entries[index] = sector
        let place = index * 4 / Vmdk.sectorBytes
        dirty = min(dirty?.lowerBound ?? place, place)..<max(dirty?.upperBound ?? place + 1, place + 1)
    }
}

/// What was changed in memory goes to the file, in the order that is told above ``VmdkGrainTables``.
extension VmdkGrainTables {
    /// Makes everything durable that was changed.
    func commit() throws(BlockError) {
        guard hasChanges else { return }
        if headerIsUncertain { try storeHeader() }
        if hasUnflushedData { try file.flush() }
        guard directoryIsDirty || !dirtyTables.isEmpty else {
            hasUnflushedData = false
            return
        }
        // A COW disk's header says up to where its file is used.
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
        guard sector != 0, let table = tables[number], let dirty = table.dirty else { return }
        let perSector = Vmdk.sectorBytes / 4
        let part = table.entries[dirty.lowerBound * perSector..<dirty.upperBound * perSector]
        let offset = (Int(sector) + dirty.lowerBound) * Vmdk.sectorBytes
        try file.write(Self.bytes(Array(part)).span.bytes, at: offset)
    }

    static func bytes(_ entries: [UInt32]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: entries.count * 4)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        for (index, entry) in entries.enumerated() { span.storeLittleEndian(entry, at: index * 4) }
        return bytes
    }

    private func writeDirectories() throws(BlockError) {
        if let redundant, let offset = header.redundantDirectoryOffset {
            try file.write(Self.bytes(redundant).span.bytes, at: offset)
        }
        try file.write(Self.bytes(directory).span.bytes, at: header.directoryOffset)
    }

    private func writeFirstFree() throws(BlockError) {
        var elements = header.bytes.mutableSpan
        var span = elements.mutableBytes
        span.storeLittleEndian(UInt32(clamping: end / Vmdk.sectorBytes), at: 28)
        try writeHeader()
    }

    private func writeHeader() throws(BlockError) {
        let bytes = header.serialised()
        try file.write(bytes.span.bytes, at: 0)
        header.bytes = bytes
    }

    /// Writes the header. Durable on return; after a failure the next commit begins with the one that is then
    /// in memory.
    func storeHeader() throws(BlockError) {
        headerIsUncertain = true
        try writeHeader()
        try file.flush()
        headerIsUncertain = false
    }
}
