import BlockCore

/// The refcount structure, and what the refcounts are beside the references.
extension Qcow2Surveyor {
    /// Blocks that the refcount table refers to; ones that lie wrong make a rebuild necessary.
    mutating func countRefcountBlocks() throws(BlockError) {
        for (index, entry) in try tables.refcounts().table.enumerated() where entry != 0 {
            let offset = Int(entry & L2Entry.offsetMask)
            if entry & ~L2Entry.offsetMask != 0 {
                survey.refcountCorruption("ERROR refcount table entry \(index) has reserved bits set")
            }
            if offset == 0 { continue }
            guard layout.isAligned(offset) else {
                survey.refcountCorruption(
                    "ERROR refcount block \(index) is not cluster aligned; refcount table entry corrupted")
                continue
            }
            guard layout.clusters(offset) < scope.fileClusters else {
                survey.refcountCorruption("ERROR refcount block \(index) is outside image")
                continue
            }
            let cluster = offset >> layout.clusterBits
            count(cluster..<cluster + 1)
        }
    }

    /// The refcount structure has its clusters to itself; where it does not, it is built anew elsewhere.
    mutating func checkOverlaps() throws(BlockError) {
        for (index, entry) in try tables.refcounts().table.enumerated() where entry & L2Entry.offsetMask != 0
        {
            let offset = Int(entry & L2Entry.offsetMask)
            let cluster = offset >> layout.clusterBits
            guard layout.isAligned(offset), window.clusters.contains(cluster) else { continue }
            if window.count(of: cluster) > 1 {
                survey.refcountCorruption(
                    "ERROR refcount block \(index) is in a cluster that is used otherwise")
                survey.hasOverlaps = true
            }
        }
        checkBitmapOverlaps()
        let first = tables.header.refcountTableOffset >> layout.clusterBits
        let table = first..<first + tables.header.refcountTableClusters
        for cluster in table.clamped(to: window.clusters) where window.count(of: cluster) > 1 {
            survey.refcountCorruption(
                "ERROR refcount table is in cluster \(cluster), which is used otherwise")
            survey.hasOverlaps = true
        }
    }

    /// Compares the refcounts of the window with the references.
    mutating func compare() throws(BlockError) {
        let allocator = try tables.refcounts()
        var cluster = window.clusters.lowerBound
        while cluster < window.clusters.upperBound {
            let agreeing = agreeing(from: cluster, allocator)
            if agreeing > 0 {
                cluster += agreeing
                continue
            }
            try compare(cluster, allocator)
            cluster += 1
        }
    }

    /// How many clusters from `first` on have refcounts that need no closer look.
    private mutating func agreeing(from first: Int, _ allocator: Qcow2Allocator) -> Int {
        guard allocator.hasBlock(for: HostCluster(first)) else {
            return window.unused(
                from: first, limit: layout.refcountsPerBlock - first % layout.refcountsPerBlock)
        }
        guard layout.refcountOrder == 4, let slice = try? allocator.slice(of: HostCluster(first)) else {
            return 0
        }
        let limit = min(slice.entries - slice.first, window.clusters.upperBound - first)
        let count = window.agreeing(
            from: first, with: slice.buffer.bytes, entry: slice.first, limit: limit,
            order: layout.refcountOrder)
        if let last = window.lastUsed(in: first..<first + count) {
            survey.usedClusters = max(survey.usedClusters, last + 1)
        }
        return count
    }

    private mutating func compare(_ cluster: Int, _ allocator: Qcow2Allocator) throws(BlockError) {
        let refcount: UInt64
        do throws(BlockError) { refcount = try allocator.refcount(of: HostCluster(cluster)) } catch {
            if error.kind == .io { survey.findings.checkErrors += 1 }
            return
        }
        let references = window.count(of: cluster)
        if refcount > 0 || references > 0 { survey.usedClusters = max(survey.usedClusters, cluster + 1) }
        if refcount == references {
            if window.contradicts(cluster, refcount: refcount) { survey.hasWrongFlags = true }
            return
        }
        survey.hasWrongFlags = true
        if try refcountRepair?.set(cluster, from: refcount, to: references, allocator) == true { return }
        let place = "cluster \(cluster) refcount=\(refcount) reference=\(references)"
        // A count that is too high does no harm.
        if refcount > references { return survey.findings.leak("Leaked \(place)") }
        survey.findings.corruption("ERROR \(place)")
        survey.mismatches += 1
        if refcount == 0 { survey.needsRebuild = true }
    }
}

/// A pass over the refcounts that sets them to the number of references.
struct Qcow2RefcountRepair {
    /// Whether counts that are too low are raised.
    let raises: Bool
    /// Whether counts that are too high are lowered, which frees leaked clusters.
    let lowers: Bool
    /// How many were raised, and lowered.
    private(set) var raised = 0
    private(set) var lowered = 0
    /// What it did, a line for each cluster.
    private(set) var lines = Findings<String>(keeping: BoundedReport.mostLines)

    init(raises: Bool, lowers: Bool) {
        self.raises = raises
        self.lowers = lowers
    }

    /// - Returns: whether the refcount is right now.
    mutating func set(
        _ cluster: Int, from refcount: UInt64, to references: UInt64, _ allocator: Qcow2Allocator
    ) throws(BlockError) -> Bool {
        let isLeak = refcount > references
        guard isLeak ? lowers : raises else { return false }
        lines.note("Repairing cluster \(cluster) refcount=\(refcount) reference=\(references)")
        guard references <= allocator.layout.maximumRefcount else { return false }
        try allocator.set(HostCluster(cluster), to: references)
        if isLeak { lowered += 1 } else { raised += 1 }
        return true
    }
}
