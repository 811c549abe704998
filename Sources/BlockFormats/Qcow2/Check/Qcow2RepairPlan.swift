import BlockCore

/// What a repair does about a survey: a value.
///
/// Nothing is freed unless all that could refer to it was followed (``whyLeaksStay(_:)``).
struct Qcow2RepairPlan: RepairPlan {
    /// In the order in which they are done, each on what the one before has left.
    enum Step: CaseIterable {
        /// Bitmaps that are damaged, or that the header does not vouch for, are removed.
        case bitmaps
        /// The dirty bit is set, so that a crash leads to another repair.
        case mark
        /// Entries of L1 and L2 tables that point nowhere are given up.
        case tables
        /// A new refcount structure is built behind everything that is in the file.
        case rebuild
        /// Refcounts become the number of references.
        case refcounts
        /// The snapshot table is written anew, without snapshots that have no L1 table any more.
        case snapshots
        /// Counts of what lies behind the end of the file go.
        case countsBehindEnd
        /// "Copied" flags and bitmaps of subclusters are looked at, and set right.
        case flags
        /// Whether a cluster still holds two pieces of metadata is asked again.
        case doubleMetadata
        /// The dirty and corrupt bits go.
        case unmark
        /// Why leaks stay is reported.
        case notice
    }

    let mode: RepairMode
    /// Whether the first survey found anything to repair.
    let hasWork: Bool
    let removesBitmaps: Bool
    /// Whether the first survey found two pieces of metadata in one cluster.
    let hadDoubleMetadata: Bool
    /// Whether something was wrong besides leaks, in a run that repairs leaks only.
    let hasOtherDamage: Bool
    /// Whether the image was dirty before the repair.
    let wasDirty: Bool
    /// Nothing is done at all: what is wrong is left to a repair that somebody asks for.
    let isRefused: Bool

    /// - Parameters:
    ///   - survey: the first one.
    ///   - isAutomatic: opening a dirty image repairs it: such a repair drops nothing that a user could still
    ///     recover.
    init(_ survey: Qcow2Survey, _ mode: RepairMode, _ header: Qcow2Header, vouches: Bool, isAutomatic: Bool) {
        self.mode = mode
        isRefused =
            isAutomatic && (survey.irreparable > survey.badBitmaps.count || survey.hasDoubleMetadata)
        let hasBitmaps = header.extensionData(Qcow2.ExtensionType.bitmaps) != nil
        removesBitmaps =
            hasBitmaps && (mode != .none && !vouches || mode == .all && survey.badBitmaps.count > 0)
        hasWork = removesBitmaps || survey.hasWork
        hadDoubleMetadata = survey.hasDoubleMetadata
        let isDamaged = survey.findings.corruptions > 0 || survey.needsRebuild || survey.hasDoubleMetadata
        hasOtherDamage = mode == .leaks && isDamaged
        wasDirty = header.incompatible.contains(.dirty)
    }

    /// Whether a step is to be done, now that those before it are.
    func includes(_ step: Step, after survey: Qcow2Survey) -> Bool {
        if isRefused { return false }
        guard mode != .none else { return step == .flags && survey.hasWrongFlags }
        switch step {
        case .bitmaps: return removesBitmaps
        case .mark: return hasWork && mode == .all
        case .tables: return hasWork && mode == .all && survey.irreparable > 0
        case .rebuild: return hasWork && survey.needsRebuild && mayRebuild(survey)
        case .refcounts: return hasWork && (!survey.needsRebuild || mayRebuild(survey))
        case .snapshots:
            return hasWork && mode == .all && survey.hasBadSnapshots && survey.haveRefcountsAgreed
                && survey.findings.checkErrors == 0
        case .countsBehindEnd: return !survey.needsRebuild && whyLeaksStay(survey) == nil
        case .flags: return survey.hasWrongFlags
        case .doubleMetadata: return hasWork
        case .unmark: return mode == .all
        case .notice: return survey.findings.leaks > 0
        }
    }

    /// Blocks that lie wrong may be anything, and new ones would lack what cannot be counted.
    private func mayRebuild(_ survey: Qcow2Survey) -> Bool {
        mode == .all && survey.unknownReferences == nil && survey.incompleteness == nil
    }

    /// Why a repair frees nothing; `nil` where it does. What nothing known refers to may be what an entry
    /// that points nowhere referred to: once freed, the next write replaces it.
    func whyLeaksStay(_ survey: Qcow2Survey) -> String? {
        if let reason = survey.unknownReferences ?? survey.incompleteness { return reason }
        if survey.hasOverlaps || hadDoubleMetadata { return "two structures shared a cluster" }
        if survey.hasLosses { return "entries were given up" }
        return hasOtherDamage ? "the image has other damage, which -r all repairs" : nil
    }

    /// Whether nothing keeps the next repair from freeing what this one left.
    func mayFreeNext(_ survey: Qcow2Survey) -> Bool {
        mode == .all && survey.findings.corruptions == 0 && survey.findings.checkErrors == 0
            && survey.unknownReferences == nil && survey.incompleteness == nil
    }

    /// "Copied" flags follow from refcounts that are right: set beside one that is too low, the flag would
    /// have the next write replace what a snapshot shares. Leaks alone are no reason to touch more.
    func repairsFlags(_ survey: Qcow2Survey) -> Bool {
        guard mode != .none, survey.haveRefcountsAgreed, survey.unknownReferences == nil,
            survey.findings.checkErrors == 0
        else { return false }
        return mode == .all || survey.findings.corruptions == 0 && !hadDoubleMetadata
    }
}
