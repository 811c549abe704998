import BlockCore

/// An active L1 table that was never written may lie behind the end of the file, where it reads as zeroes.
extension Qcow2State {
    /// One past the last cluster of an active L1 table that lies behind the end of the file; 0 for none.
    func endOfUnwrittenL1(_ fileClusters: Int) -> Int {
        let first = header.l1Offset >> layout.clusterBits
        guard header.l1Entries > 0, first >= fileClusters else { return 0 }
        return first + layout.clusters(header.l1Entries * 8)
    }

    /// Distinguishes a table that was never written from one that a cut file has lost: behind the end of a
    /// whole file only such a table has refcounts above zero.
    ///
    /// - Throws: `corrupt` for a cut file, with the least number of bytes that are missing.
    func checkUnwrittenL1() throws(BlockError) {
        let length = try file.length()
        let fileClusters = layout.clusters(length)
        let end = endOfUnwrittenL1(fileClusters)
        guard end > 0 else { return }
        let table = header.l1Offset >> layout.clusterBits..<end
        let store = try refcounts()
        let limit = min(store.endOfBlocks.index, end + Qcow2.Limit.l1BehindEndBytes >> layout.clusterBits)
        var last: Int?
        for cluster in fileClusters..<max(fileClusters, limit) where !table.contains(cluster) {
            if try store.refcount(of: HostCluster(cluster)) > 0 { last = cluster }
        }
        guard let last else { return }
        let missing = max(last + 1, end) << layout.clusterBits - length
        throw corrupt(
            "Active L1 table offset is beyond the end of the file, which is cut: at least \(missing) bytes "
                + "are missing"
        )
    }

    /// Extends the file to the end of such a table, with the zeroes that it reads as.
    func reachL1() throws(BlockError) {
        guard !isReadOnly, header.l1Entries > 0, header.l1Offset >= (try file.length()) else { return }
        try file.resize(to: header.l1Offset + layout.clusters(header.l1Entries * 8) << layout.clusterBits)
        hasUnflushedWrites = true
        knownEnd = 0
    }
}
