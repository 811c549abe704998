import BlockCore

extension Qcow2Driver: Checkable {
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try exclusively { tables throws(BlockError) -> CheckResult in
            if tables.damage != nil { try tables.reload() } else if !tables.isReadOnly { try tables.commit() }
            // A repair may free the cluster that the next compressed one was to go into.
            tables.freeByteOffset = 0
            if repair != .none {
                try tables.clearUnknownAutoclear()
                try tables.reachL1()
            }
            var checker = try Qcow2Checker(tables)
            return try checker.run(repair: repair, report: report)
        }
    }
}

/// Checks that refcounts and references agree, and mends what does not.
///
/// Works in passes over windows of the file, so memory does not grow with the image. Reads tables from the
/// file: the caller has written back what was cached. Used under the driver's lock.
struct Qcow2Checker {
    let tables: Qcow2Metadata
    var result = CheckResult()
    /// Findings are told in the first pass only.
    var isQuiet = false
    /// A refcount structure that cannot be trusted or lacks entries is built anew.
    var needsRebuild = false
    /// Some "copied" flag contradicts a refcount.
    var hasWrongFlags = false
    /// One past the last cluster that is used or counted.
    var usedClusters = 0
    /// How many findings are told; all are counted.
    private static let maximumLines = 100_000
    private var told = 0
    /// One past the last cluster that anything but a refcount refers to.
    var endOfReferences = 0
    let fileClusters: Int
    /// One past the last cluster whose refcount is compared: an active L1 table that was never written may
    /// lie behind the end of the file.
    let countedClusters: Int
    /// What is wrong with bitmaps.
    var badBitmaps = BadBitmaps()
    /// Refcounts that differ from the references, and were not set right.
    var mismatches = 0
    /// Some entry of the snapshot table must be written anew, or cannot stay.
    var hasBadSnapshots = false
    /// Entries of the snapshot table that lack what version 3 requires: no damage, but completed by a repair.
    var incompleteSnapshots = 0
    /// Why not all references are known: some structure cannot be followed. `nil` where all could be counted.
    var unknownReferences: String?
    /// Why what is known of a snapshot may not be all: its tables can be followed, and seem to be too short.
    var doubt: String?
    /// This run gave up entries that point nowhere: what they referred to may be among the leaks.
    var hasLosses = false
    /// A piece of the refcount structure is in a cluster that is used otherwise: some entry points to the
    /// wrong place, and what lies in the right one seems to be leaked.
    var hasOverlaps = false
    /// Something was wrong besides leaks, in a run that repairs leaks only.
    var hasOtherDamage = false
    /// Clusters with tables that seem to be used otherwise too; known once that may matter.
    var doubtful: ClusterFilter?
    /// Nobody asked for this repair: it gives nothing up that a person might save.
    let isAutomatic: Bool

    var layout: Qcow2Layout { tables.layout }

    init(_ tables: Qcow2Metadata, isAutomatic: Bool = false) throws(BlockError) {
        self.tables = tables
        self.isAutomatic = isAutomatic
        fileClusters = tables.layout.clusters(try tables.file.length())
        countedClusters = max(fileClusters, tables.endOfUnwrittenL1(fileClusters))
    }

    /// Checks and, where asked, repairs.
    ///
    /// Order of writes in a repair: the dirty bit (version 3), entries that point nowhere, the refcounts, a
    /// barrier, the snapshot table, the flags, a barrier, the dirty and corrupt bits off. A crash in between
    /// leaves an image that is repaired again.
    ///
    /// Nothing is freed unless all that could refer to it was followed (``whyLeaksStay(_:)``).
    mutating func run(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        result.totalClusters = layout.clusters(tables.header.virtualSize)
        let before = result
        tables.protection = nil
        tables.isRepairing = true
        defer {
            tables.protection = nil
            tables.isRepairing = false
        }
        try compareAll(repair: .none, report)
        let overlaps = try checkMetadataOverlap(report)
        if isAutomatic && unmendable > badBitmaps.count { return result }
        let wasDirty = tables.header.incompatible.contains(.dirty)
        hasOtherDamage = repair == .leaks && (result.corruptions > 0 || needsRebuild)
        if overlaps && repair != .none {
            hasOverlaps = true
            // Asked again in the end, when flags and refcounts are right.
            result.corruptions -= 1
            unmendable -= 1
        }
        let lostBitmaps = repair == .none ? false : try mendBitmaps(repair, report)
        if lostBitmaps { try recount(from: before) }
        let hasWork =
            lostBitmaps || overlaps || result.leaks > 0 || result.corruptions > 0 || needsRebuild
            || hasWrongFlags || hasBadSnapshots
        if repair != .none && hasWork { try mend(repair, from: before, report) }
        if repair != .none && !needsRebuild && whyLeaksStay(repair) == nil {
            try clearCountsBehindEnd(report)
        }
        if hasWrongFlags {
            let mends = mendsFlags(repair) && (repair == .all || !overlaps)
            try checkFlags(repair: mends, report)
        }
        if hasWork && repair != .none {
            let overlapsStill = try checkMetadataOverlap(report)
            if overlaps && !overlapsStill { result.corruptionsFixed += 1 }
        }
        if repair == .all { try clearBits(wasDirty: wasDirty) }
        if repair != .none, result.leaks > 0, let reason = whyLeaksStay(repair) {
            report("Leaked clusters stay, for they may hold what is missing: \(reason)")
            if mayFreeNext(repair) { report("Check again with -r leaks to free them") }
        }
        result.imageEndOffset = usedClusters << layout.clusterBits
        return result
    }

    /// "Copied" flags follow from refcounts that are right: set beside one that is too low, the flag would
    /// have the next write go over what a snapshot shares. Leaks alone are no reason to touch more.
    private func mendsFlags(_ repair: RepairMode) -> Bool {
        guard repair != .none, haveRefcountsAgreed, unknownReferences == nil, result.checkErrors == 0 else {
            return false
        }
        return repair == .all || result.corruptions == 0
    }

    /// Whether every refcount is as high as there are references.
    private var haveRefcountsAgreed: Bool { mismatches == 0 && !needsRebuild }

    /// Why a repair frees nothing; `nil` where it does. What nothing known refers to may be what an entry
    /// that points nowhere referred to: once freed, the next write goes over it.
    private func whyLeaksStay(_ repair: RepairMode) -> String? {
        if let reason = unknownReferences ?? doubt { return reason }
        if hasOverlaps { return "two structures shared a cluster" }
        if hasLosses { return "entries were given up" }
        return hasOtherDamage ? "the image has other damage, which -r all repairs" : nil
    }

    /// Whether nothing keeps the next repair from freeing what this one left.
    private func mayFreeNext(_ repair: RepairMode) -> Bool {
        repair == .all && result.corruptions == 0 && result.checkErrors == 0
            && unknownReferences == nil && doubt == nil
    }

    /// Mends the refcounts.
    private mutating func mend(
        _ repair: RepairMode, from before: CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        if repair == .all {
            try tables.setDirty(true)
            if unmendable > 0, try mendTables(report) { try recount(from: before) }
        }
        // Blocks that lie wrong may be anything, and new ones would lack what cannot be counted.
        if needsRebuild && (repair != .all || unknownReferences != nil || doubt != nil) { return }
        let lost = unmendable
        let alreadyFixed = result.corruptionsFixed
        if needsRebuild {
            report("Rebuilding refcount structure")
            try rebuild(keepingUnused: whyLeaksStay(repair) != nil)
        }
        let first = result
        restart(from: before)
        isQuiet = true
        try compareAll(repair: repair, report)
        isQuiet = false
        unmendable = lost
        if repair == .all && needsRebuild {
            // What was wrong before the rebuild is right now.
            result.corruptionsFixed = alreadyFixed + max(0, first.corruptions - lost - result.corruptions)
            result.leaksFixed = max(0, first.leaks - result.leaks)
            needsRebuild = false
        }
        try tables.writeRefcounts()
        try tables.barrier()
        if repair == .all, hasBadSnapshots, haveRefcountsAgreed, result.checkErrors == 0 {
            let completed = incompleteSnapshots
            try mendSnapshotTable(report)
            self = try reopened()
            try recount(from: before)
            result.corruptionsFixed += completed
        }
    }

    /// Finds out anew, without a word, what is still wrong.
    private mutating func recount(from before: CheckResult) throws(BlockError) {
        let found = result.corruptions
        restart(from: before)
        isQuiet = true
        try compareAll(repair: .none, { _ in })
        isQuiet = false
        result.corruptionsFixed += max(0, found - result.corruptions)
    }

    /// Writes the snapshot table anew, in full, without snapshots that have no L1 table any more.
    private mutating func mendSnapshotTable(_ report: (String) -> Void) throws(BlockError) {
        var kept: [Qcow2Snapshot] = []
        for snapshot in try tables.snapshotTable(checksPlaces: false).snapshots {
            if let placed = placed(snapshot) {
                if placed != snapshot { hasLosses = true }
                kept.append(placed.withBoundedExtra)
            } else {
                hasLosses = true
                report("Removing snapshot '\(snapshot.info.name)', whose tables are lost")
            }
        }
        report("Repairing the snapshot table")
        try tables.replaceSnapshotTable(kept, keepsOld: hasLosses)
        try tables.commit()
    }

    /// Counts of what lies behind the end of the file would be leaks once it has grown.
    private mutating func clearCountsBehindEnd(_ report: (String) -> Void) throws(BlockError) {
        let store = try tables.refcounts()
        let end = store.endOfBlocks
        // A block that was made meanwhile lies behind what was counted.
        var cluster = layout.clusters(try tables.file.length())
        let fixed = result.leaksFixed
        while cluster < end {
            guard store.hasBlock(for: cluster) else {
                cluster = (cluster / layout.refcountsPerBlock + 1) * layout.refcountsPerBlock
                continue
            }
            let refcount = try store.refcount(of: cluster)
            if refcount > 0 {
                tell("Repairing cluster \(cluster) refcount=\(refcount) reference=0", report)
                try store.set(cluster, to: 0)
                result.leaksFixed += 1
            }
            cluster += 1
        }
        guard result.leaksFixed > fixed else { return }
        try tables.writeRefcounts()
        try tables.barrier()
    }

    /// Corruptions that no repair of refcounts can mend: entries that point nowhere sensible.
    var unmendable = 0

    private mutating func restart(from before: CheckResult) {
        let fixed = (result.corruptionsFixed, result.leaksFixed)
        result = before
        (result.corruptionsFixed, result.leaksFixed) = fixed
        hasWrongFlags = false
        hasBadSnapshots = false
        incompleteSnapshots = 0
        unknownReferences = nil
        doubt = nil
        mismatches = 0
        unmendable = 0
    }

    /// Where all is well, the bits that say otherwise go; where the refcounts are, the dirty bit: it speaks
    /// of nothing else, and who writes to the image would have to do all this again.
    private func clearBits(wasDirty: Bool) throws(BlockError) {
        guard result.checkErrors == 0, haveRefcountsAgreed else {
            // What stays wrong was wrong before.
            return wasDirty ? () : try tables.setDirty(false)
        }
        guard result.corruptions == 0 else { return try tables.setDirty(false) }
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

    /// Notes a corruption that is no matter of refcounts.
    mutating func corruption(_ line: @autoclosure () -> String, _ report: (String) -> Void) {
        result.corruptions += 1
        unmendable += 1
        tell(line(), report)
    }

    /// Tells of a finding, unless it was told in an earlier pass or there were very many.
    mutating func tell(_ line: @autoclosure () -> String, _ report: (String) -> Void) {
        guard !isQuiet else { return }
        told += 1
        if told < Self.maximumLines { report(line()) }
        if told == Self.maximumLines { report("More is wrong than is told here") }
    }

    // MARK: Comparing

    /// Counts references and compares them with the refcounts, window by window.
    private mutating func compareAll(repair: RepairMode, _ report: (String) -> Void) throws(BlockError) {
        var start = 0
        // Behind the last reference and the last block, everything is zero and agrees.
        var limit = countedClusters
        let wasQuiet = isQuiet
        let counted = result
        repeat {
            let end = min(limit, start + ReferenceWindow.size)
            var window = ReferenceWindow(start..<max(start, end))
            // Every pass sees all references again: what they are counts once.
            let before = (result, unmendable)
            try countReferences(into: &window, report)
            limit = min(countedClusters, max(endOfReferences, try tables.refcounts().endOfBlocks))
            if start > 0 { (result, unmendable) = before } else { isQuiet = true }
            isQuiet = wasQuiet
            try checkOverlaps(window, report)
            isQuiet = true
            try compare(window, repair: repair, report)
            start = end
        } while start < limit
        isQuiet = wasQuiet
        result.totalClusters = counted.totalClusters
    }

    /// Counted twice, it agrees with its two uses; where more is wrong, that has been told.
    private mutating func checkMetadataOverlap(_ report: (String) -> Void) throws(BlockError) -> Bool {
        guard !needsRebuild, unmendable == 0, let cluster = try tables.overlappingMetadata() else {
            return false
        }
        corruption("ERROR cluster \(cluster) holds two pieces of metadata", report)
        return true
    }

    private mutating func compare(
        _ window: ReferenceWindow, repair: RepairMode, _ report: (String) -> Void
    ) throws(BlockError) {
        let store = try tables.refcounts()
        var cluster = window.clusters.lowerBound
        while cluster < window.clusters.upperBound {
            let agreeing = try agreeing(from: cluster, window, store)
            if agreeing > 0 {
                cluster += agreeing
                continue
            }
            try compare(cluster, window, repair, store, report)
            cluster += 1
        }
    }

    /// The clusters from `first` on whose refcounts need no closer look.
    private mutating func agreeing(
        from first: Int, _ window: ReferenceWindow, _ store: Qcow2Allocator
    ) throws(BlockError) -> Int {
        guard store.hasBlock(for: first) else {
            return window.unused(
                from: first, limit: layout.refcountsPerBlock - first % layout.refcountsPerBlock)
        }
        guard layout.refcountOrder == 4, let slice = try? store.slice(of: first) else { return 0 }
        let limit = min(slice.entries - slice.first, window.clusters.upperBound - first)
        let count = window.agreeing(
            from: first, with: slice.buffer.bytes, entry: slice.first, limit: limit,
            order: layout.refcountOrder)
        if let last = window.lastUsed(in: first..<first + count) {
            usedClusters = max(usedClusters, last + 1)
        }
        return count
    }

    private mutating func compare(
        _ cluster: Int, _ window: ReferenceWindow, _ repair: RepairMode, _ store: Qcow2Allocator,
        _ report: (String) -> Void
    ) throws(BlockError) {
        let refcount: UInt64
        do throws(BlockError) { refcount = try store.refcount(of: cluster) } catch {
            if error.kind == .io { result.checkErrors += 1 }
            return
        }
        let references = window.count(of: cluster)
        if refcount > 0 || references > 0 { usedClusters = max(usedClusters, cluster + 1) }
        if refcount == references {
            if window.contradicts(cluster, refcount: refcount) { hasWrongFlags = true }
            return
        }
        try mismatch(cluster, refcount, references, repair, store, report)
    }

    private mutating func mismatch(
        _ cluster: Int, _ refcount: UInt64, _ references: UInt64, _ repair: RepairMode,
        _ store: Qcow2Allocator,
        _ report: (String) -> Void
    ) throws(BlockError) {
        hasWrongFlags = true
        let wasQuiet = isQuiet
        let isLeak = refcount > references
        let mends = isLeak ? repair != .none && whyLeaksStay(repair) == nil : repair == .all
        let word = mends ? "Repairing" : isLeak ? "Leaked" : "ERROR"
        // What is only found was told by the first look.
        isQuiet = !mends && repair != .none
        tell("\(word) cluster \(cluster) refcount=\(refcount) reference=\(references)", report)
        isQuiet = wasQuiet
        if mends, references <= layout.maximumRefcount {
            try store.set(cluster, to: references)
            if isLeak { result.leaksFixed += 1 } else { result.corruptionsFixed += 1 }
            return
        }
        // A count that is too high does no harm.
        if !isLeak { mismatches += 1 }
        if isLeak { result.leaks += 1 } else { result.corruptions += 1 }
        if refcount == 0 && !isLeak { needsRebuild = true }
    }
}
