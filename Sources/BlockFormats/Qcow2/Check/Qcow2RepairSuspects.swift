import BlockCore

/// Clusters with tables in them that seem to be used otherwise too: what looks like a table there may be
/// anything, and is left alone.
extension Qcow2Repair {
    /// Clusters with tables in them that are used otherwise too.
    mutating func findSuspects(
        _ snapshots: [Qcow2Snapshot], _ areas: ClusterRanges
    ) throws(BlockError) -> ClusterFilter {
        var known = ClusterFilter()
        var suspects = ClusterFilter()
        for area in areas.merged { known.insert(area) }
        for area in areas.overlaps { suspects.insert(area) }
        var inTables = known
        func note(_ entries: [UInt64]) {
            for entry in entries where entry & L2Entry.offsetMask != 0 {
                let cluster = layout.cluster(in: entry)
                if known.mayContain(cluster) { suspects.insert(cluster) }
                inTables.insert(cluster)
            }
        }
        note(try tables.refcounts().table)
        note(tables.l1)
        for snapshot in snapshots { note(try tables.readL1(of: snapshot)) }
        var visited = VisitedTables()
        try noteData(of: tables.l1, inTables, &visited, &suspects)
        for snapshot in snapshots {
            try noteData(of: try tables.readL1(of: snapshot), inTables, &visited, &suspects)
        }
        try eachBitmapCluster { cluster in
            if inTables.mayContain(cluster) { suspects.insert(cluster) }
        }
        return suspects
    }

    /// Tables in clusters that L2 entries call data are suspects.
    private mutating func noteData(
        of l1: [UInt64], _ inTables: ClusterFilter, _ visited: inout VisitedTables,
        _ suspects: inout ClusterFilter
    ) throws(BlockError) {
        var found: [HostCluster] = []
        try eachTable(of: l1, outside: ClusterRanges([]), visited: &visited) { repair, buffer, _ in
            let layout = repair.layout
            for index in 0..<layout.entriesPerL2Table {
                let entry = layout.entry(index, of: buffer.bytes)
                for cluster in entry.hostClusters(layout) where inTables.mayContain(cluster) {
                    found.append(cluster)
                }
            }
            for cluster in found { suspects.insert(cluster) }
            found.removeAll(keepingCapacity: true)
            return false
        }
    }

    /// Shows the clusters with bits of bitmaps to `body`.
    private func eachBitmapCluster(_ body: (HostCluster) -> Void) throws(BlockError) {
        guard tables.bitmapsAreCurrent, let data = tables.header.extensionData(Qcow2.ExtensionType.bitmaps)
        else { return }
        for entry in try tables.bitmapDirectory(data)
        where entry.tableDefect(layout, fileClusters: scope.fileClusters) == nil {
            for raw in try BigEndianTable.read(tables.file, at: entry.tableOffset, count: entry.tableEntries)
            where raw != 0 {
                body(layout.cluster(at: Qcow2BitmapTableEntry(raw: raw).hostOffset))
            }
        }
    }

    /// Whether the "L2 table" in `buffer` is somebody else's cluster, as it seems.
    func isNoTable(_ offset: Int, _ buffer: AlignedBuffer) -> Bool {
        guard suspects?.mayContain(layout.cluster(at: HostOffset(offset))) == true else { return false }
        return (0..<layout.entriesPerL2Table).contains { index in
            let entry = layout.entry(index, of: buffer.bytes)
            return entry.bitmapProblem(layout) != nil
                || scope.repaired(entry, guest: entry.hostOffset.bytes) != nil
        }
    }
}
