import BlockCore

/// Looking up grains.
extension VmdkGrainTables {
    /// - Throws: `limit` for a directory that refers to the same grain tables too often.
    func checkRepeats() throws(BlockError) {
        var repeats = TableRepeats(capacity: directory.count)
        for sector in directory { repeats.note(UInt64(sector)) }
        try repeats.check(entriesPerTable: entriesPerTable, path: file.filename)
    }

    /// The entry of a grain, and the length of its run of at most `limit` grains: all unallocated, all zero,
    /// or adjacent in the file. Compressed grains of a run need not be adjacent.
    func run(at grain: Int, limit: Int) throws(BlockError) -> (entry: UInt32, count: Int) {
        let first = try entry(grain)
        let step = isPlace(first) ? header.grainSectors : 0
        var count = 0
        while count < limit {
            let number = (grain + count) / entriesPerTable
            let start = (grain + count) % entriesPerTable
            let most = min(limit - count, entriesPerTable - start)
            guard let table = try count == 0 ? self.table(number) : peek(number) else {
                if first != 0 { return (first, max(count, 1)) }
                count += most
                continue
            }
            for index in start..<start + most {
                let next = table.entries[index]
                let continues =
                    header.isCompressed && step > 0
                    ? isPlace(next) : Int(next) == Int(first) + step * count
                guard continues else { return (first, max(count, 1)) }
                count += 1
            }
        }
        return (first, count)
    }

    /// A table as from ``table(_:)``. An unreadable table ends a run; the read of its own grains reports it.
    private func peek(_ number: Int) throws(BlockError) -> VmdkGrainTable? {
        do throws(BlockError) { return try table(number) } catch {
            return VmdkGrainTable(entries: [UInt32](repeating: .max, count: entriesPerTable))
        }
    }

    func entry(_ grain: Int) throws(BlockError) -> UInt32 {
        try table(grain / entriesPerTable)?.entries[grain % entriesPerTable] ?? 0
    }

    /// Whether an entry holds the place of a grain.
    func isPlace(_ entry: UInt32) -> Bool {
        entry != 0 && !(entry == Vmdk.zeroGrain && header.hasZeroGrains)
    }
}
