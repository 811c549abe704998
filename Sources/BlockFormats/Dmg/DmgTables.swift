import BlockCore

/// A part of the disk that is stored as a whole. All numbers are in bytes.
struct DmgChunk: Sendable {
    var start: Int
    var count: Int
    /// The offset of the stored bytes in the file. ``length`` is their number.
    var offset: Int
    var length: Int
    /// The type in the table; not all values are known.
    var type: UInt32

    var end: Int { start + count }
    var encoding: DmgEncoding? { DmgEncoding(rawValue: type) }
}

/// The table of a part of the disk, mostly a partition. Its entries follow its header.
struct DmgTable: Sendable {
    /// The part of the disk in bytes.
    var range: Range<Int>
    var name: String
    var checksum: DmgChecksum
    /// The indices of its chunks in ``DmgTables/chunks``.
    var chunks: Range<Int>
}

/// All tables of an image, and their chunks in the order of the disk.
struct DmgTables {
    /// In the order of the disk.
    private(set) var tables: [DmgTable] = []
    private(set) var chunks: [DmgChunk] = []
    /// The tables' checksums in the order of the image, as the master checksum covers them.
    private(set) var checksums: [UInt32] = []
    private let trailer: DmgTrailer

    /// Reads the tables from the property list, or from the resource fork when there is no property list.
    ///
    /// - Throws: `corrupt`, `limit`; after this, all places and sizes of chunks are validated. `io`.
    static func read(_ file: BlockNode, _ trailer: DmgTrailer) throws(BlockError) -> DmgTables {
        var tables = DmgTables(trailer: trailer)
        if !trailer.propertyList.isEmpty {
            try tables.addPropertyList(try directory(file, trailer.propertyList, "property list"))
        } else if !trailer.resourceFork.isEmpty {
            let fork = try directory(file, trailer.resourceFork, "resource fork")
            for range in try DmgResourceFork.resources(of: Dmg.resourceType, in: fork.span.bytes) {
                try tables.add(fork.span.bytes.extracting(range), name: "")
            }
        } else {
            throw BlockError(.corrupt, "The image has neither a property list nor a resource fork")
        }
        try tables.putInOrder()
        return tables
    }

    private init(trailer: DmgTrailer) { self.trailer = trailer }

    /// The end of the last chunk, in bytes.
    var end: Int { chunks.last?.end ?? 0 }

    private static func directory(
        _ file: BlockNode, _ range: Range<Int>, _ what: String
    ) throws(BlockError) -> [UInt8] {
        guard range.count <= Dmg.Limit.directoryBytes else {
            throw BlockError(.limit, "The \(what) is too large (\(range.count) bytes)")
        }
        return try file.readBytes(at: range.lowerBound, count: range.count)
    }

    private mutating func addPropertyList(_ text: [UInt8]) throws(BlockError) {
        let resources = try PropertyList.parse(text)["resource-fork"]?[Dmg.resourceType]
        guard case .array(let items) = resources else {
            throw BlockError(.corrupt, "The property list has no block tables")
        }
        for item in items {
            guard case .data(let range) = item["Data"] else {
                throw BlockError(.corrupt, "The property list has a block table without data")
            }
            let bytes: [UInt8]
            do throws(BlockError) { bytes = try Base64.decode(text[range]) } catch {
                throw BlockError(.corrupt, "A block table is damaged: \(error.message)")
            }
            var name = ""
            if case .string(let text) = item["CFName"] ?? item["Name"] { name = text }
            try add(bytes.span.bytes, name: name)
        }
    }

    // MARK: One table

    private mutating func add(_ bytes: RawSpan, name: String) throws(BlockError) {
        typealias Field = DmgTable.Field
        // Resources that are not tables are skipped, as in other programs.
        guard Field.signature.number(in: bytes) == UInt64(Dmg.tableMagic) else { return }
        let entries = Int(truncatingIfNeeded: Field.entries.number(in: bytes))
        guard bytes.byteCount >= Dmg.tableHeaderBytes,
            entries <= (bytes.byteCount - Dmg.tableHeaderBytes) / Dmg.entryBytes
        else { throw BlockError(.corrupt, "A block table ends early") }
        guard tables.count < Dmg.Limit.tables, entries <= Dmg.Limit.chunks - chunks.count else {
            throw BlockError(.limit, "The image has too many chunks")
        }
        let start = try Self.bytes(ofSectors: Field.sector.number(in: bytes))
        let count = try Self.bytes(ofSectors: Field.sectors.number(in: bytes))
        let (end, overflow) = start.addingReportingOverflow(count)
        let data = Field.dataOffset.number(in: bytes)
        let (dataOffset, isOutside) = UInt64(trailer.dataOffset).addingReportingOverflow(data)
        guard !overflow, !isOutside, dataOffset <= UInt64(Int.max) else {
            throw BlockError(.corrupt, "A block table describes what cannot be")
        }
        let firstChunk = chunks.count
        for number in 0..<entries {
            let entry = Dmg.tableHeaderBytes + number * Dmg.entryBytes
            try addEntry(bytes.extracting(entry..<entry + Dmg.entryBytes), start, Int(dataOffset))
        }
        let checksum = DmgChecksum(bytes, at: Field.checksum.offset)
        checksums.append(checksum.value)
        tables.append(
            DmgTable(range: start..<end, name: name, checksum: checksum, chunks: firstChunk..<chunks.count))
    }

    private mutating func addEntry(
        _ entry: RawSpan, _ tableStart: Int, _ dataOffset: Int
    ) throws(BlockError) {
        typealias Field = DmgChunk.Field
        let type = UInt32(truncatingIfNeeded: Field.type.number(in: entry))
        let count = try Self.bytes(ofSectors: Field.sectors.number(in: entry))
        if type == DmgEncoding.comment || type == DmgEncoding.terminator || count == 0 { return }
        let first = try Self.bytes(ofSectors: Field.sector.number(in: entry))
        let (start, overflow) = tableStart.addingReportingOverflow(first)
        guard !overflow, !start.addingReportingOverflow(count).overflow else {
            throw BlockError(.corrupt, "A chunk describes what cannot be")
        }
        var chunk = DmgChunk(start: start, count: count, offset: 0, length: 0, type: type)
        if let encoding = chunk.encoding, !encoding.isZero {
            try place(&chunk, encoding, entry, dataOffset)
        }
        chunks.append(chunk)
    }

    /// Sets the place of the chunk's bytes, and checks that they are in the file and within the limit.
    private func place(
        _ chunk: inout DmgChunk, _ encoding: DmgEncoding, _ entry: RawSpan, _ dataOffset: Int
    ) throws(BlockError) {
        let relative = DmgChunk.Field.offset.number(in: entry)
        let length = DmgChunk.Field.length.number(in: entry)
        let fileEnd = UInt64(trailer.offset)
        let (offset, overflow) = UInt64(dataOffset).addingReportingOverflow(relative)
        guard !overflow, offset <= fileEnd, length <= fileEnd - offset else {
            throw BlockError(
                .corrupt, "The chunk of sector \(chunk.start / Dmg.sectorBytes) is outside the image")
        }
        chunk.offset = Int(offset)
        chunk.length = Int(length)
        let isAllowed =
            encoding.isCompressed
            ? max(chunk.count, chunk.length) <= Dmg.Limit.chunkBytes : chunk.length == chunk.count
        guard isAllowed else {
            throw BlockError(
                .corrupt,
                "The chunk of sector \(chunk.start / Dmg.sectorBytes) has a size that is not allowed "
                    + "(\(length) bytes for \(chunk.count))")
        }
    }

    private static func bytes(ofSectors sectors: UInt64) throws(BlockError) -> Int {
        guard sectors <= UInt64(Dmg.Limit.sectors) else {
            throw BlockError(.corrupt, "A block table has a sector number that is too large (\(sectors))")
        }
        return Int(sectors) * Dmg.sectorBytes
    }

    // MARK: The order of the disk

    private mutating func putInOrder() throws(BlockError) {
        let order = tables.sorted { first, second in
            (first.range.lowerBound, first.chunks.lowerBound)
                < (second.range.lowerBound, second.chunks.lowerBound)
        }
        if !zip(order, order.dropFirst()).allSatisfy({ $0.chunks.upperBound == $1.chunks.lowerBound }) {
            var sorted: [DmgChunk] = []
            sorted.reserveCapacity(chunks.count)
            for table in order { sorted += chunks[table.chunks] }
            chunks = sorted
        }
        tables = order
        var next = 0
        for number in tables.indices {
            let count = tables[number].chunks.count
            tables[number].chunks = next..<next + count
            next += count
        }
        try checkOrder()
    }

    private func checkOrder() throws(BlockError) {
        var end = 0
        for chunk in chunks {
            guard chunk.start >= end else {
                throw BlockError(
                    .corrupt,
                    "The chunk of sector \(chunk.start / Dmg.sectorBytes) overlaps another one, or is out of "
                        + "order")
            }
            end = chunk.end
        }
        guard trailer.virtualSize == 0 || end <= trailer.virtualSize else {
            throw BlockError(
                .corrupt,
                "The chunks go on after the end of the disk (\(end) bytes of \(trailer.virtualSize))")
        }
    }
}
