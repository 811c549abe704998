import BlockCore

/// Moves the last grains of a sparse extent into unused space, and cuts the file.
///
/// The order of writes: copies into unused space; a flush; the entries; a flush; the length of the file.
struct VmdkCompaction {
    /// The largest number of grains that are moved: each takes 4 bytes for its place and 4 for its target.
    private static let maximumGrains = 3 << 20
    /// The largest number of tables of an extent that is compacted: 8 TiB with usual grains.
    private static let maximumTables = 1 << 18
    /// The memory for cached grain tables meanwhile, in bytes.
    private static let keptTableBytes = 8 << 20

    private let tables: VmdkGrainTables

    init(_ tables: VmdkGrainTables) { self.tables = tables }

    func run() throws(BlockError) {
        guard !tables.header.isCompressed, hasFewTables else { return }
        tables.keepTables(within: Self.keptTableBytes)
        guard var grains = try collect() else { return }
        grains.sort()
        let targets = plan(grains)
        let sources = grains.suffix(targets.count)
        try move(sources, to: targets)
        let lastGrain = Int(max(grains.dropLast(targets.count).last ?? 0, targets.last ?? 0))
        let end = try moveMetadata(behind: lastGrain > 0 ? lastGrain + tables.header.grainSectors : 0)
        if try tables.file.length() > end * Vmdk.sectorBytes {
            try tables.file.resize(to: end * Vmdk.sectorBytes)
        }
        tables.setEnd(end * Vmdk.sectorBytes)
    }

    private var hasFewTables: Bool {
        let copies = tables.redundant ?? []
        return [tables.directory, copies].allSatisfy { directory in
            directory.count(where: { $0 != 0 }) <= Self.maximumTables
        }
    }

    /// Copies grains from the sectors `sources`, ascending, to `targets`, and then links the copies.
    private func move(_ sources: ArraySlice<UInt32>, to targets: [UInt32]) throws(BlockError) {
        guard !sources.isEmpty else { return }
        for (source, target) in zip(sources, targets) {
            let start = Int(source) * Vmdk.sectorBytes
            try tables.file.copyInside(
                start..<start + tables.grainBytes, to: Int(target) * Vmdk.sectorBytes)
        }
        try tables.file.flush()
        try eachGrain { (number, sector) throws(BlockError) in
            guard let index = Self.index(of: sector, in: sources) else { return }
            try tables.link(number..<number + 1) { _ in targets[index] }
        }
        try tables.commit()
    }

    /// The index of a number among ascending ones, counted from the first.
    private static func index(of sector: UInt32, in sectors: ArraySlice<UInt32>) -> Int? {
        var (low, high) = (sectors.startIndex, sectors.endIndex)
        while low < high {
            let middle = (low + high) / 2
            if sectors[middle] < sector { low = middle + 1 } else { high = middle }
        }
        return low < sectors.endIndex && sectors[low] == sector ? low - sectors.startIndex : nil
    }

    /// Moves tables and directories behind the last grain towards it, one by one.
    ///
    /// - Returns: the sector at which the used part of the file then ends.
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

    private func eachGrain(
        _ body: (_ number: Int, _ sector: UInt32) throws(BlockError) -> Void
    ) throws(BlockError) {
        for number in tables.directory.indices {
            guard let table = try tables.table(number) else { continue }
            let first = number * tables.entriesPerTable
            for (index, entry) in table.entries.enumerated() where tables.isPlace(entry) {
                try body(first + index, entry)
            }
        }
    }

    /// The sectors of all grains; `nil` when there are too many.
    private func collect() throws(BlockError) -> [UInt32]? {
        var count = 0
        try eachGrain { (_, _) in count += 1 }
        guard count <= Self.maximumGrains else { return nil }
        var grains: [UInt32] = []
        grains.reserveCapacity(count)
        try eachGrain { (_, sector) in grains.append(sector) }
        return grains
    }

    /// The target sectors for as many of the last grains as can move, ascending.
    private func plan(_ grains: [UInt32]) -> [UInt32] {
        let size = tables.header.grainSectors
        var targets: [UInt32] = []
        let metadata = metadataRanges
        var (nextGrain, nextMetadata) = (0, 0)
        var place = tables.header.overheadBytes / Vmdk.sectorBytes
        var kept = grains.count
        while nextGrain < kept {
            let grain = Int(grains[nextGrain])
            let obstacle = nextMetadata < metadata.count ? metadata[nextMetadata].lowerBound : Int.max
            if min(grain, obstacle) >= place + size {
                guard Int(grains[kept - 1]) >= place + size else { break }
                targets.append(UInt32(place))
                kept -= 1
                place += size
            } else if grain <= obstacle {
                place = max(place, grain + size)
                nextGrain += 1
            } else {
                place = max(place, metadata[nextMetadata].upperBound)
                nextMetadata += 1
            }
        }
        return targets
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
}
