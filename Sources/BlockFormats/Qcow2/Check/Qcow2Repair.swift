import BlockCore

extension Qcow2Driver: Checkable {
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try exclusively { tables throws(BlockError) -> CheckResult in
            if tables.damage != nil { try tables.reload() } else if !tables.isReadOnly { try tables.commit() }
            // A repair may free the cluster that the next compressed one was to go into.
            tables.freeByteOffset = .zero
            if repair != .none {
                try tables.clearUnknownAutoclear()
                try tables.reachL1()
            }
            return try tables.check(repair, report)
        }
    }
}

extension Qcow2State {
    /// Checks that refcounts and references agree, and repairs what does not. What was cached is written.
    ///
    /// - Parameter isAutomatic: set when opening a dirty image repairs it: such a repair drops nothing that a
    ///   user could still recover.
    /// - Throws: `io`, `noSpace`, `limit`; `corrupt` where the check cannot run at all.
    func check(
        _ mode: RepairMode, isAutomatic: Bool = false, _ report: (String) -> Void
    ) throws(BlockError) -> CheckResult {
        protection = nil
        isRepairing = true
        defer {
            protection = nil
            isRepairing = false
        }
        var repair = try Qcow2Repair(self, isAutomatic: isAutomatic)
        return try repair.check(mode, report)
    }
}

/// The check of an image, and its repair. Used under the driver's lock.
///
/// Order of writes in a repair:
/// 1. The dirty bit (version 3).
/// 2. Entries that point nowhere.
/// 3. The refcounts, a barrier.
/// 4. The snapshot table.
/// 5. The flags, a barrier.
/// 6. The dirty and corrupt bits off.
///
/// A crash in between leaves an image that is repaired again.
struct Qcow2Repair: Surveying {
    let tables: Qcow2State
    let isAutomatic: Bool
    /// Made anew for a file that has grown.
    var scope: Qcow2CheckScope
    /// Clusters with tables that seem to be used otherwise too; known once that may matter.
    var suspects: ClusterFilter?
    var lines = BoundedReport()
    /// Entries that pointed nowhere were given up.
    var hasLosses = false
    /// Flags and bitmaps of subclusters that were found wrong, and that were set right.
    var wrongFlags = 0
    var repairedFlags = 0

    var layout: Qcow2Layout { tables.layout }

    init(_ tables: Qcow2State, isAutomatic: Bool) throws(BlockError) {
        self.tables = tables
        self.isAutomatic = isAutomatic
        scope = try Qcow2CheckScope(tables)
    }

    mutating func survey(_ report: (String) -> Void) throws(BlockError) -> Qcow2Survey {
        var surveyor = Qcow2Surveyor(scope)
        do throws(BlockError) { try surveyor.run() } catch {
            lines.report(surveyor.survey.findings, to: report)
            throw error
        }
        var survey = surveyor.survey
        if let line = try doubleMetadata(survey) {
            survey.hasDoubleMetadata = true
            survey.findings.note(line)
        }
        return survey
    }

    /// Counted twice, a cluster agrees with its two uses; where more is wrong, that has been reported.
    private func doubleMetadata(_ survey: Qcow2Survey) throws(BlockError) -> String? {
        guard !survey.needsRebuild, survey.irreparable == 0, let cluster = try tables.overlappingMetadata()
        else { return nil }
        return "ERROR cluster \(cluster) holds two pieces of metadata"
    }

    func plan(for survey: Qcow2Survey, _ mode: RepairMode) -> Qcow2RepairPlan {
        Qcow2RepairPlan(
            survey, mode, tables.header, vouches: tables.bitmapsAreCurrent, isAutomatic: isAutomatic)
    }

    mutating func report(_ survey: Qcow2Survey, _ plan: Qcow2RepairPlan, to output: (String) -> Void) {
        lines.report(survey.findings, to: output)
    }

    mutating func apply(
        _ step: Qcow2RepairPlan.Step, of plan: Qcow2RepairPlan, to survey: inout Qcow2Survey,
        _ report: (String) -> Void
    ) throws(BlockError) {
        switch step {
        case .bitmaps: try removeBitmaps(plan, &survey, report)
        case .mark: try tables.setDirty(true)
        case .tables: try repairTables(&survey, report)
        case .rebuild:
            report("Rebuilding refcount structure")
            try rebuild(keepingUnused: plan.whyLeaksStay(survey) != nil)
            survey.usedClusters = 0
        case .refcounts: try repairRefcounts(plan, &survey, report)
        case .snapshots: try repairSnapshotTable(&survey, report)
        case .countsBehindEnd: try clearCountsBehindEnd(&survey, report)
        case .flags: try checkFlags(repair: plan.repairsFlags(survey), &survey, report)
        case .doubleMetadata: try askAgain(plan, &survey, report)
        case .unmark: try clearBits(plan, survey)
        case .notice: reportWhyLeaksStay(plan, survey, report)
        }
    }

    func result(of survey: Qcow2Survey, _ plan: Qcow2RepairPlan) -> CheckResult {
        var result = CheckResult()
        result.corruptions = survey.findings.corruptions + (survey.hasDoubleMetadata ? 1 : 0)
        result.leaks = survey.findings.leaks
        result.checkErrors = survey.findings.checkErrors
        result.corruptionsFixed = survey.corruptionsFixed
        result.leaksFixed = survey.leaksFixed
        result.totalClusters = layout.clusters(tables.header.virtualSize)
        result.allocatedClusters = survey.allocatedClusters
        result.fragmentedClusters = survey.fragmentedClusters
        result.compressedClusters = survey.compressedClusters
        if !plan.isRefused { result.imageEndOffset = survey.usedClusters << layout.clusterBits }
        return result
    }

    // MARK: Surveying again

    /// Finds out anew, without a word, what is still wrong. What is not any more was repaired.
    mutating func surveyAgain(_ survey: inout Qcow2Survey) throws(BlockError) {
        var surveyor = Qcow2Surveyor(scope)
        try surveyor.run()
        let found = survey.findings.corruptions
        surveyor.survey.follow(survey)
        survey = surveyor.survey
        survey.corruptionsFixed += max(0, found - survey.findings.corruptions)
    }

    private mutating func askAgain(
        _ plan: Qcow2RepairPlan, _ survey: inout Qcow2Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        survey.hasDoubleMetadata = false
        if let line = try doubleMetadata(survey) {
            survey.corruption(line)
            lines.report(line, to: report)
        } else if plan.hadDoubleMetadata {
            survey.corruptionsFixed += 1
        }
    }

    /// Where all is well, the bits that say otherwise go; where the refcounts are, the dirty bit: it means
    /// nothing else, and who writes to the image would have to do all this again.
    private func clearBits(_ plan: Qcow2RepairPlan, _ survey: Qcow2Survey) throws(BlockError) {
        guard survey.findings.checkErrors == 0, survey.haveRefcountsAgreed else {
            // What stays wrong was wrong before.
            return plan.wasDirty ? () : try tables.setDirty(false)
        }
        guard survey.findings.corruptions == 0 else { return try tables.setDirty(false) }
        tables.damage = nil
        // QEMU does not open an image that calls a data file raw which it does not have.
        let raw = tables.header.autoclear & Qcow2.Autoclear.dataFileRaw
        let strayRaw = tables.header.incompatible.contains(.dataFile) ? 0 : raw
        let isSound = tables.header.incompatible.isDisjoint(with: [.dirty, .corrupt])
        guard layout.version >= 3, !isSound || strayRaw != 0 else { return }
        try tables.barrier()
        tables.header.autoclear &= ~strayRaw
        tables.header.incompatible.subtract([.dirty, .corrupt])
        try tables.writeHeaderFields()
        try tables.barrier()
    }

    private func reportWhyLeaksStay(
        _ plan: Qcow2RepairPlan, _ survey: Qcow2Survey, _ report: (String) -> Void
    ) {
        guard let reason = plan.whyLeaksStay(survey) else { return }
        report("Leaked clusters stay, for they may hold what is missing: \(reason)")
        if plan.mayFreeNext(survey) { report("Check again with -r leaks to free them") }
    }
}
