import BlockCore

/// The parts of a cut file that may be lost besides the disk's plain clusters.
extension Qcow2State {
    /// Limits the entries of snapshots' tables that the search visits.
    private static let entriesAtMost = 1 << 22

    /// Whether the file ends inside a cluster that is no table and so may hold compressed data, which has to
    /// be whole. Then only the L2 tables can decide whether data is lost.
    func mayEndInCompressedData() throws(BlockError) -> Bool {
        let length = try file.length()
        guard !layout.isAligned(length) else { return false }
        let start = length.roundedDown(to: layout.clusterSize)
        let l1Range = header.l1Offset..<header.l1Offset + header.l1Entries * 8
        let counts = try refcounts()
        let countRange =
            header.refcountTableOffset..<header.refcountTableOffset
            + (counts.tableClusters << layout.clusterBits)
        if start == 0 || l1Range.contains(start) || countRange.contains(start) { return false }
        let isTable = { (entry: UInt64) in Int(entry & L2Entry.offsetMask) == start }
        return !l1.contains(where: isTable) && !counts.table.contains(where: isTable)
    }

    /// One past the last byte behind the end of the file to which snapshots refer; `nil` where there is none.
    /// L2 tables that the active disk shares are left out: they are searched for it.
    func endOfSnapshotData(behind length: Int) throws(BlockError) -> Int? {
        guard header.snapshotCount > 0 else { return nil }
        var end = 0
        var budget = Self.entriesAtMost
        var visited = Set(l1.map { Int($0 & L2Entry.offsetMask) })
        for snapshot in try snapshotTable().snapshots {
            let l1End = snapshot.l1Offset + snapshot.l1Entries * 8
            guard l1End <= length else {
                end = max(end, l1End)
                continue
            }
            for entry in try readL1(of: snapshot) where entry != 0 && budget > 0 {
                let table = Int(entry & L2Entry.offsetMask)
                guard visited.insert(table).inserted else { continue }
                budget -= layout.entriesPerL2Table
                end = max(end, try endOfData(below: table, behind: length))
            }
        }
        return end > 0 ? end : nil
    }

    /// As ``endOfSnapshotData(behind:)``, for one L2 table; 0 where there is none.
    private func endOfData(below table: Int, behind length: Int) throws(BlockError) -> Int {
        guard table < length else { return table + layout.clusterSize }
        let buffer = AlignedBuffer(count: layout.clusterSize)
        var bytes = buffer.mutableBytes
        try file.read(into: &bytes, at: table)
        var end = 0
        for index in 0..<layout.entriesPerL2Table {
            let place = index * layout.l2EntryBytes
            let raw = buffer.bytes.bigEndian(at: place) ?? UInt64(0)
            let bitmap = layout.l2EntryBytes > 8 ? buffer.bytes.bigEndian(at: place + 8) ?? UInt64(0) : 0
            let entry = L2Entry(raw: raw, bitmap: bitmap)
            switch entry.kind(layout) {
            case .data where entry.hostOffset.bytes >= length:
                if layout.hasSubclusters && UInt32(truncatingIfNeeded: bitmap) == 0 { break }
                end = max(end, entry.hostOffset.bytes + layout.clusterSize)
            case .compressed:
                let last = entry.compressedRange(layout).upperBound.bytes - Qcow2.sectorBytes + 1
                if last > length { end = max(end, last) }
            default: break
            }
        }
        return end
    }
}
