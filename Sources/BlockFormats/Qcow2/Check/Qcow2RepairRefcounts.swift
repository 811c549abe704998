import BlockCore

/// Refcounts become the number of references.
extension Qcow2Repair {
    /// Sets the refcounts, and surveys on the way what is left.
    mutating func repairRefcounts(
        _ plan: Qcow2RepairPlan, _ survey: inout Qcow2Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        let first = survey
        let pass = Qcow2RefcountRepair(
            raises: plan.mode == .all, lowers: plan.whyLeaksStay(survey) == nil)
        var surveyor = Qcow2Surveyor(scope, repairing: pass)
        defer { if let done = surveyor.refcountRepair?.lines { lines.report(done, to: report) } }
        try surveyor.run()
        surveyor.survey.follow(first)
        survey = surveyor.survey
        survey.irreparable = first.irreparable
        if first.needsRebuild {
            // What was wrong before the rebuild is right now.
            let left = first.irreparable + survey.findings.corruptions
            survey.corruptionsFixed += max(0, first.findings.corruptions - left)
            survey.leaksFixed = max(0, first.findings.leaks - survey.findings.leaks)
            survey.needsRebuild = false
        } else {
            survey.corruptionsFixed += surveyor.refcountRepair?.raised ?? 0
            survey.leaksFixed += surveyor.refcountRepair?.lowered ?? 0
        }
        try tables.writeRefcounts()
        try tables.barrier()
    }

    /// Counts of what lies behind the end of the file would be leaks once it has grown.
    mutating func clearCountsBehindEnd(
        _ survey: inout Qcow2Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        let allocator = try tables.refcounts()
        let end = allocator.endOfBlocks
        // A block that was made meanwhile lies behind what was counted.
        var cluster = layout.endCluster(ofFile: try tables.file.length())
        var cleared = 0
        while cluster < end {
            guard allocator.hasBlock(for: cluster) else {
                cluster = layout.firstCluster(ofBlock: layout.refcountBlock(of: cluster) + 1)
                continue
            }
            let refcount = try allocator.refcount(of: cluster)
            if refcount > 0 {
                lines.report("Repairing cluster \(cluster) refcount=\(refcount) reference=0", to: report)
                try allocator.set(cluster, to: 0)
                cleared += 1
            }
            cluster += 1
        }
        guard cleared > 0 else { return }
        survey.leaksFixed += cleared
        try tables.writeRefcounts()
        try tables.barrier()
    }
}
