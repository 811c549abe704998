import BlockCore

/// Layout changes for repairs and resizing.
extension VmdkGrainTables {
    /// Drops the tables in memory.
    func forgetTables() {
        tables = [:]
        dirtyTables = []
        held = Held()
        tableSectors = nil
    }

    /// The layout of the metadata, kept to restore it when a change fails.
    struct Layout {
        fileprivate var directory: [UInt32]
        fileprivate var redundant: [UInt32]?
        fileprivate var header: VmdkSparseHeader
    }

    var layout: Layout { Layout(directory: directory, redundant: redundant, header: header) }

    /// Restores a layout, and drops uncommitted changes.
    func restore(_ layout: Layout?) {
        guard let layout else { return }
        replaceDirectories(layout.directory, layout.redundant, layout.header)
        forgetTables()
    }

    /// Notes the end of the file, which the caller has cut.
    func setEnd(_ end: Int) { space = TailSpace(end: end) }

    /// Replaces the directories by others of another size or place; the caller writes them.
    func replaceDirectories(_ directory: [UInt32], _ redundant: [UInt32]?, _ header: VmdkSparseHeader) {
        self.directory = directory
        self.redundant = redundant
        self.header = header
        tableSectors = nil
    }

    /// Replaces a table by a new one, which is durable before the directory refers to it.
    func replaceTable(_ number: Int, with entries: [UInt32]) throws(BlockError) {
        let place = try allocate(header.tableBytes)
        let bytes = Self.bytes(entries)
        try file.write(bytes.span.bytes, at: place)
        hasUnflushedData = true
        directory[number] = UInt32(place / Vmdk.sectorBytes)
        directoryIsDirty = true
        tables[number] = VmdkGrainTable(entries: entries)
        dirtyTables.remove(number)
        tableSectors = nil
    }

    /// Marks a redundant table that differs from the primary one for rewriting.
    func markForRewriting(_ number: Int) throws(BlockError) {
        guard let table = try table(number) else { return }
        table.dirty = 0..<header.tableSectors
        dirtyTables.insert(number)
    }
}

/// Moving tables and directories.
extension VmdkGrainTables {
    enum Metadata {
        case directory, redundantDirectory
        case table(Int), redundantTable(Int)
    }

    /// Directories and tables with the sectors that they take, ascending.
    func movableMetadata() -> [(what: Metadata, sectors: Range<Int>)] {
        var places: [(what: Metadata, sectors: Range<Int>)] = []
        func add(_ what: Metadata, _ sector: Int, _ count: Int) {
            if sector > 0 { places.append((what, sector..<sector + count)) }
        }
        let size = header.directoryBytes / Vmdk.sectorBytes
        add(.directory, header.directoryOffset / Vmdk.sectorBytes, size)
        add(.redundantDirectory, (header.redundantDirectoryOffset ?? 0) / Vmdk.sectorBytes, size)
        for (number, sector) in directory.enumerated() {
            add(.table(number), Int(sector), header.tableSectors)
        }
        for (number, sector) in (redundant ?? []).enumerated() {
            add(.redundantTable(number), Int(sector), header.tableSectors)
        }
        return places.sorted { $0.sectors.lowerBound < $1.sectors.lowerBound }
    }

    /// Moves metadata: a copy to unused space, a flush, then the reference to it.
    func move(_ what: Metadata, to sector: Int) throws(BlockError) {
        try commit()
        let offset = sector * Vmdk.sectorBytes
        let bytes = Self.bytes(try entries(of: what))
        try file.write(bytes.span.bytes, at: offset)
        try file.flush()
        try refer(to: what, at: sector)
        tableSectors = nil
    }

    private func entries(of what: Metadata) throws(BlockError) -> [UInt32] {
        switch what {
        case .directory: directory
        case .redundantDirectory: redundant ?? []
        case .table(let number): try table(number)?.entries ?? []
        case .redundantTable(let number): try redundantTable(number) ?? []
        }
    }

    private func refer(to what: Metadata, at sector: Int) throws(BlockError) {
        let before = header
        do throws(BlockError) {
            switch what {
            case .directory: header.directoryOffset = sector * Vmdk.sectorBytes
            case .redundantDirectory: header.redundantDirectoryOffset = sector * Vmdk.sectorBytes
            case .table(let number):
                directory[number] = UInt32(sector)
                directoryIsDirty = true
                return try commit()
            case .redundantTable(let number):
                redundant?[number] = UInt32(sector)
                directoryIsDirty = true
                return try commit()
            }
            try storeHeader()
        } catch {
            header = before
            throw error
        }
    }
}
