import BlockCore

/// Gives the space of freed clusters back to the file system, with one hole for each run of clusters: a hole
/// costs the file system about as much as writing a cluster.
extension Qcow2State {
    /// Gives back the space of clusters that no entry in the file refers to, in any order. Where that fails
    /// the space stays unused.
    ///
    /// - Parameter freed: clusters that lost their last reference. Those that were allocated again since are
    ///   left alone.
    func punch(_ freed: [Range<HostCluster>]) {
        guard !freed.isEmpty, let store = loadedRefcounts else { return }
        var runs: [Range<HostCluster>] = []
        for range in freed.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            for cluster in range where (try? store.refcount(of: cluster)) == 0 {
                runs.add(cluster..<cluster + 1)
            }
        }
        for run in runs { discard(run) }
    }

    /// Gives back the space of every free cluster of the file.
    ///
    /// - Throws: `corrupt` where a free cluster holds metadata.
    func punchAllFree() throws(BlockError) {
        let store = try refcounts()
        let end = layout.endCluster(ofFile: try file.length())
        var start: HostCluster?
        for cluster in HostCluster(0)..<end {
            let isFree = try store.refcount(of: cluster) == 0 ? try mayAllocate(cluster) : false
            if isFree {
                start = start ?? cluster
            } else if let first = start {
                discard(first..<cluster)
                start = nil
            }
        }
        if let first = start { discard(first..<end) }
    }

    private func discard(_ clusters: Range<HostCluster>) {
        try? file.discard(
            at: layout.offset(of: clusters.lowerBound).bytes, count: clusters.count << layout.clusterBits)
    }
}
