import BlockCore

/// Moves the last grains of a sparse extent into room that nothing refers to, and cuts the file.
///
/// The order of writes: copies into unused room; a flush; the entries; a flush; the length of the file.
struct VmdkCompaction {
    /// More grains than this are not moved about: their places take 8 bytes each.
    private static let maximumGrains = 6 << 20

    private struct Grain {
        var sector: UInt32
        var number: UInt32
    }

    private let tables: VmdkGrainTables

    init(_ tables: VmdkGrainTables) { self.tables = tables }

    func run() throws(BlockError) {
        guard !tables.header.isCompressed, var grains = try collect() else { return }
        grains.sort { $0.sector < $1.sector }
        let moves = plan(&grains)
        for move in moves { try copy(move.grain, to: move.place) }
        if !moves.isEmpty { try tables.file.flush() }
        for move in moves {
            let number = Int(move.grain.number)
            try tables.link(number..<number + 1) { _ in UInt32(move.place) }
        }
        try tables.commit()
        let lastGrain = max(grains.last.map { Int($0.sector) } ?? 0, moves.last?.place ?? 0)
        let end = try moveMetadata(behind: lastGrain > 0 ? lastGrain + tables.header.grainSectors : 0)
        if try tables.file.length() > end * Vmdk.sectorBytes {
            try tables.file.resize(to: end * Vmdk.sectorBytes)
        }
        tables.setEnd(end * Vmdk.sectorBytes)
    }

    /// Moves tables and directories that lie behind the last grain towards it, one after the other.
    ///
    /// - Returns: the sector where the used part of the file then ends.
    private func moveMetadata(behind grains: Int) throws(BlockError) -> Int {
        var end = max(grains, tables.header.overheadBytes / Vmdk.sectorBytes)
        for place in tables.movableMetadata() where place.sectors.upperBound > end {
            let count = place.sectors.count
            guard place.sectors.lowerBound >= end + count else {
                end = place.sectors.upperBound
                continue
            }
            try tables.move(place.what, to: end)
            end += count
        }
        return end
    }

    private func collect() throws(BlockError) -> [Grain]? {
        var grains: [Grain] = []
        for number in tables.directory.indices {
            guard let table = try tables.table(number) else { continue }
            let first = number * tables.entriesPerTable
            for (index, entry) in table.entries.enumerated() where tables.isPlace(entry) {
                guard grains.count < Self.maximumGrains else { return nil }
                grains.append(Grain(sector: entry, number: UInt32(first + index)))
            }
        }
        return grains
    }

    /// Where grains from the end go. They are taken off `grains`.
    private func plan(_ grains: inout [Grain]) -> [(grain: Grain, place: Int)] {
        let size = tables.header.grainSectors
        var moves: [(grain: Grain, place: Int)] = []
        let metadata = metadataRanges
        var (nextGrain, nextMetadata) = (0, 0)
        var place = tables.header.overheadBytes / Vmdk.sectorBytes
        while let last = grains.last, nextGrain < grains.count {
            let grain = Int(grains[nextGrain].sector)
            let obstacle = nextMetadata < metadata.count ? metadata[nextMetadata].lowerBound : Int.max
            if min(grain, obstacle) >= place + size {
                guard Int(last.sector) >= place + size else { break }
                moves.append((grains.removeLast(), place))
                place += size
            } else if grain <= obstacle {
                place = max(place, grain + size)
                nextGrain += 1
            } else {
                place = max(place, metadata[nextMetadata].upperBound)
                nextMetadata += 1
            }
        }
        return moves
    }

    /// The sectors of directories and tables, ascending.
    private var metadataRanges: [Range<Int>] {
        let fixed = tables.fixedMetadata.map {
            $0.lowerBound / Vmdk.sectorBytes..<($0.upperBound + Vmdk.sectorBytes - 1) / Vmdk.sectorBytes
        }
        let others = (tables.directory + (tables.redundant ?? [])).filter { $0 != 0 }
        let size = tables.header.tableSectors
        return (fixed + others.map { Int($0)..<Int($0) + size }).sorted { $0.lowerBound < $1.lowerBound }
    }

    private func copy(_ grain: Grain, to place: Int) throws(BlockError) {
        let bytes = try tables.file.readBytes(
            at: Int(grain.sector) * Vmdk.sectorBytes, count: tables.grainBytes)
        try tables.file.write(bytes.span.bytes, at: place * Vmdk.sectorBytes)
    }
}
