import BlockCore

/// A table with one 32-bit number a block, held whole in memory; changes are written to the file by sectors.
///
/// Not thread-safe: the driver's lock guards it.
struct BlockTable {
    /// The unit of a write, in bytes: a table changes by whole sectors.
    private static let sectorBytes = 512
    private static let entriesPerSector = 128
    /// The size of one read, in bytes.
    private static let readBytes = Int.mib(1)
    /// The largest write, in sectors.
    private static let sectorsAtOnce = 2048

    /// Where the table starts in the file, in bytes.
    let offset: Int
    let isBigEndian: Bool
    private(set) var entries: [UInt32]
    /// Sectors of the table that differ from the file.
    private var dirty: Set<Int> = []
    /// Sectors that a flush is writing without the lock.
    private var held: Set<Int> = []
    /// Sectors whose space in the file is allocated.
    private var reserved: Set<Int> = []

    /// A new table, no part of which is in the file yet.
    init(entries: [UInt32], offset: Int, isBigEndian: Bool) {
        self.entries = entries
        self.offset = offset
        self.isBigEndian = isBigEndian
        dirty = Set(0..<entries.count.dividedRoundingUp(by: Self.entriesPerSector))
    }

    /// Reads a table. The caller has checked that it lies inside the file and is not too large.
    ///
    /// - Throws: `io`.
    /// - Complexity: O(`count`).
    init(reading file: BlockNode, at offset: Int, count: Int, isBigEndian: Bool) throws(BlockError) {
        self.offset = offset
        self.isBigEndian = isBigEndian
        entries = []
        entries.reserveCapacity(count)
        while entries.count < count {
            let bytes = min(Self.readBytes, (count - entries.count) * 4)
            let part = try file.readBytes(at: offset + entries.count * 4, count: bytes)
            let span = part.span.bytes
            for index in 0..<bytes / 4 {
                let value: UInt32? =
                    isBigEndian ? span.bigEndian(at: index * 4) : span.littleEndian(at: index * 4)
                entries.append(value ?? 0)
            }
        }
    }

    var count: Int { entries.count }
    var isDirty: Bool { !dirty.isEmpty }
    /// The size of the table in the file, in bytes: whole sectors.
    static func fileBytes(entries count: Int) -> Int {
        count.dividedRoundingUp(by: entriesPerSector) * sectorBytes
    }

    /// The entry of a block; the caller has checked the index against ``count``.
    subscript(index: Int) -> UInt32 {
        get { entries[index] }
        set {
            entries[index] = newValue
            dirty.insert(index / Self.entriesPerSector)
        }
    }

    /// Allocates the space of an entry in the file before the data is written: a full disk must refuse the
    /// request then, not the entry that refers to written data.
    ///
    /// - Throws: `noSpace`, `io`.
    mutating func reserve(_ index: Int, in file: BlockNode) throws(BlockError) {
        let sector = index / Self.entriesPerSector
        guard !reserved.contains(sector) else { return }
        let start = offset + sector * Self.sectorBytes
        let end = min(start + Self.sectorBytes, offset + count * 4)
        try file.fillHoles(in: start..<end)
        reserved.insert(sector)
    }

    /// Changes the number of entries; new ones are `filler`.
    mutating func resize(to count: Int, filler: UInt32) {
        if count < entries.count { entries.removeLast(entries.count - count) }
        if count > entries.count {
            // Reserves the exact size instead of doubling it: tables can be large.
            entries.reserveCapacity(count)
            dirty.formUnion(entries.count / Self.entriesPerSector...(count - 1) / Self.entriesPerSector)
            entries.append(contentsOf: repeatElement(filler, count: count - entries.count))
        }
        dirty = dirty.filter { $0 * Self.entriesPerSector < count }
    }

    /// Takes out the changed sectors, to be written without the lock. They are held until
    /// ``settle(failed:)``.
    mutating func takeChanges() -> [TableWrites.Part] {
        let parts = runs().map { sectors in
            TableWrites.Part(
                offset: offset + sectors.lowerBound * Self.sectorBytes, bytes: bytes(of: sectors))
        }
        (held, dirty) = (dirty, [])
        return parts
    }

    /// Releases the sectors that were taken out; after a failed write they count as changed again.
    mutating func settle(failed: Bool) {
        if failed { dirty.formUnion(held.filter { $0 * Self.entriesPerSector < count }) }
        held = []
    }

    /// Writes the changed sectors. Sectors that could not be written stay marked as changed.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func write(to file: BlockNode) throws(BlockError) {
        for sectors in runs() {
            try file.write(bytes(of: sectors).span.bytes, at: offset + sectors.lowerBound * Self.sectorBytes)
            for sector in sectors { dirty.remove(sector) }
        }
    }

    /// The changed sectors, as runs of neighbours.
    private func runs() -> [Range<Int>] {
        let sectors = dirty.sorted()
        var runs: [Range<Int>] = []
        var first = 0
        while first < sectors.count {
            var last = first + 1
            while last < sectors.count, sectors[last] == sectors[last - 1] + 1,
                last - first < Self.sectorsAtOnce
            {
                last += 1
            }
            runs.append(sectors[first]..<sectors[last - 1] + 1)
            first = last
        }
        return runs
    }

    /// The bytes of these sectors as they are to be in the file.
    private func bytes(of sectors: Range<Int>) -> [UInt8] {
        let start = sectors.lowerBound * Self.entriesPerSector
        let result = [UInt8](zeroed: sectors.count * Self.sectorBytes) { bytes in
            for index in start..<min(sectors.upperBound * Self.entriesPerSector, entries.count) {
                let place = (index - start) * 4
                if isBigEndian {
                    bytes.storeBigEndian(entries[index], at: place)
                } else {
                    bytes.storeLittleEndian(entries[index], at: place)
                }
            }
        }
        // A table that begins inside a sector does not own the bytes behind its last entry.
        let owned = (entries.count - start) * 4
        return offset % Self.sectorBytes == 0 ? result : Array(result.prefix(owned))
    }
}
