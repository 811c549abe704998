import BlockCore

/// The survey of all grain tables of a sparse extent.
///
/// One bit per sector would need too much memory for a large file. So the file is surveyed in windows, with
/// one pass through all tables for each.
struct VmdkSurvey {
    enum Finding: Equatable {
        /// A grain table that lies outside the file, or overlaps metadata or another table.
        case badTable(Int)
        /// A grain wholly behind the end of the file.
        case beyondEnd(grain: Int)
        /// A grain that overlaps metadata or an earlier grain.
        case shared(grain: Int)
        /// A compressed grain with a wrong marker.
        case badMarker(grain: Int)
    }

    /// The sectors of a window: 16 MiB of bits for 64 GiB of the file.
    private static let windowSectors = 1 << 27

    private(set) var findings = Findings<Finding>()
    /// The number of stored grains; ``leaks`` is the number of grains that unused space could hold.
    private(set) var allocated = 0
    private(set) var leaks = 0
    /// The tables whose redundant copy differs.
    private(set) var staleTables = Findings<Int>()

    private let tables: VmdkGrainTables
    private let fileSectors: Int
    private let badTables: UnitBitmap
    /// The tables without an entry: those in holes of the file, and those found empty in the first window.
    private var emptyTables: UnitBitmap
    /// Redundant tables in holes of the file.
    private let emptyCopies: UnitBitmap
    /// The used sectors of the window.
    private var used = UnitBitmap(0..<0)
    private var window: Range<Int> { used.units }
    /// The start of the run of unused sectors that ends at the current one.
    private var gapStart: Int?

    /// - Parameter found: called with each finding immediately; may repair it. New places must be at the end
    ///   of the file.
    init(
        _ tables: VmdkGrainTables, _ found: (Finding) throws(BlockError) -> Void = { _ in }
    ) throws(BlockError) {
        self.tables = tables
        let length = try tables.file.length()
        fileSectors = min(length / Vmdk.sectorBytes, Vmdk.Limit.fileSectors)
        badTables = Self.badTables(tables, length)
        emptyTables = try Self.tablesInHoles(tables.directory, tables, length)
        emptyCopies = try Self.tablesInHoles(tables.redundant ?? [], tables, length)
        for number in tables.directory.indices where badTables.contains(number) {
            try add(.badTable(number), found)
        }
        var start = 0
        repeat {
            used = UnitBitmap(start..<min(start + Self.windowSectors, max(fileSectors, 1)))
            try lookAtWindow(isFirst: start == 0, found)
            start = window.upperBound
        } while start < fileSectors
        endGap(at: fileSectors)
        // The grains of a lost table are unknown, so no space is known to leak.
        if badTables.usedCount > 0 { leaks = 0 }
        try compareCopies()
    }

    private mutating func add(
        _ finding: Finding, _ found: (Finding) throws(BlockError) -> Void
    ) throws(BlockError) {
        findings.corruption(finding)
        try found(finding)
    }

    // MARK: Tables

    private static func badTables(_ tables: VmdkGrainTables, _ length: Int) -> UnitBitmap {
        var bad = UnitBitmap(tables.directory.indices)
        let size = tables.header.tableBytes
        let fixed = tables.fixedMetadata
        let order = tables.directory.indices.filter { tables.directory[$0] != 0 }
            .sorted { tables.directory[$0] < tables.directory[$1] }
        var end = 0
        for number in order {
            let offset = Int(tables.directory[number]) * Vmdk.sectorBytes
            let range = offset..<offset + size
            if range.upperBound > length || offset < end
                || fixed.contains(where: { $0.overlaps(range) })
            {
                bad.insert(number)
            } else {
                end = range.upperBound
            }
        }
        return bad
    }

    /// The tables of a directory that lie in holes of the file, with one status query per hole or extent of
    /// the file.
    private static func tablesInHoles(
        _ directory: [UInt32], _ tables: VmdkGrainTables, _ length: Int
    ) throws(BlockError) -> UnitBitmap {
        var bits = UnitBitmap(directory.indices)
        let size = tables.header.tableBytes
        var (known, isHole) = (0..<0, false)
        let order = directory.indices.filter { directory[$0] != 0 }.sorted { directory[$0] < directory[$1] }
        for number in order {
            let offset = Int(directory[number]) * Vmdk.sectorBytes
            guard offset <= length - size else { break }
            if !known.contains(offset) {
                let run = try tables.file.status(at: offset, limit: length - offset)
                (known, isHole) = (offset..<offset + run.length, run.isZero)
            }
            // A changed table may not be in the file yet.
            let isKnown = isHole && offset + size <= known.upperBound
            if isKnown && !tables.isChanged(number) { bits.insert(number) }
        }
        return bits
    }

    /// Finds the tables whose redundant copy differs. That is harmless: reads use the primary ones.
    private mutating func compareCopies() throws(BlockError) {
        guard tables.redundant != nil else { return }
        for number in tables.directory.indices where !badTables.contains(number) {
            if emptyTables.contains(number) && emptyCopies.contains(number) { continue }
            guard let primary = try tables.table(number) else { continue }
            if try tables.redundantTable(number) == primary.entries { continue }
            staleTables.note(number)
        }
    }

    // MARK: Grains

    private mutating func lookAtWindow(
        isFirst: Bool, _ found: (Finding) throws(BlockError) -> Void
    ) throws(BlockError) {
        for range in tables.fixedMetadata { used.insert(sectors(range)) }
        // Two loops instead of a joined array, which would be a copy.
        for directory in [tables.directory, tables.redundant ?? []] {
            for sector in directory where sector != 0 {
                used.insert(Int(sector)..<Int(sector) + tables.header.tableSectors)
            }
        }
        for number in tables.directory.indices
        where !emptyTables.contains(number) && !badTables.contains(number) {
            guard let table = try tables.table(number) else { continue }
            var isEmpty = true
            for (index, entry) in table.entries.enumerated() where tables.isPlace(entry) {
                isEmpty = false
                let grain = number * tables.entriesPerTable + index
                if let finding = try look(at: grain, Int(entry), isFirst: isFirst) {
                    try add(finding, found)
                }
            }
            if isEmpty { emptyTables.insert(number) }
        }
        if !tables.header.isCompressed { countGaps() }
    }

    private mutating func look(at grain: Int, _ sector: Int, isFirst: Bool) throws(BlockError) -> Finding? {
        guard sector < fileSectors else { return isFirst ? .beyondEnd(grain: grain) : nil }
        guard window.contains(sector) else {
            // A grain before this window may reach into it.
            if sector < window.lowerBound { used.insert(sector..<sector + tables.header.grainSectors) }
            return nil
        }
        allocated += 1
        var count = tables.header.grainSectors
        if tables.header.isCompressed {
            guard let size = try compressedSectors(grain, sector) else { return .badMarker(grain: grain) }
            count = size
        }
        return used.insert(sector..<sector + count) ? nil : .shared(grain: grain)
    }

    /// The size of a compressed grain with its marker, in sectors; `nil` when the marker is damaged.
    private func compressedSectors(_ grain: Int, _ sector: Int) throws(BlockError) -> Int? {
        let bytes = try tables.file.readBytes(
            at: sector * Vmdk.sectorBytes, count: Vmdk.Marker.grainHeaderBytes)
        let span = bytes.span.bytes
        let (guest, size): (UInt64?, UInt32?) = (span.littleEndian(at: 0), span.littleEndian(at: 8))
        guard let guest, let size, guest == UInt64(grain * tables.header.grainSectors), size > 0,
            Int(size) <= VmdkGrainCodec.maximumBytes(grainBytes: tables.grainBytes)
        else { return nil }
        let whole = Int(size) + Vmdk.Marker.grainHeaderBytes
        return (whole + Vmdk.sectorBytes - 1) / Vmdk.sectorBytes
    }

    // MARK: Sectors

    private func sectors(_ bytes: Range<Int>) -> Range<Int> {
        bytes.lowerBound / Vmdk.sectorBytes..<(bytes.upperBound + Vmdk.sectorBytes - 1) / Vmdk.sectorBytes
    }

    /// Counts the unused space behind the metadata, in grains.
    private mutating func countGaps() {
        var sector = max(window.lowerBound, tables.header.overheadBytes / Vmdk.sectorBytes)
        let end = min(window.upperBound, fileSectors)
        while sector < end {
            let free = used.firstUnused(from: sector) ?? end
            if free > sector { endGap(at: sector) }
            if free < end { gapStart = gapStart ?? free }
            sector = used.firstUsed(from: free) ?? end
        }
    }

    private mutating func endGap(at sector: Int) {
        if let start = gapStart, sector > start { leaks += (sector - start) / tables.header.grainSectors }
        gapStart = nil
    }
}
