import BlockCore

extension Qcow2Driver: Checkable {
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try exclusively { tables throws(BlockError) -> CheckResult in
            if tables.damage != nil { try tables.reload() } else if !tables.isReadOnly { try tables.commit() }
            // A repair may free the cluster that the next compressed one was to go into.
            tables.freeByteOffset = 0
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
    /// What is wrong with bitmaps.
    var badBitmaps = BadBitmaps()

    var layout: Qcow2Layout { tables.layout }

    init(_ tables: Qcow2Metadata) throws(BlockError) {
        self.tables = tables
        fileClusters = tables.layout.clusters(try tables.file.length())
    }

    /// Checks and, where asked, repairs.
    ///
    /// Order of writes in a repair: the dirty bit (version 3), the refcounts, a barrier, the flags, a
    /// barrier, the dirty and corrupt bits off. A crash in between leaves an image that is repaired again.
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
        let lostBitmaps = repair == .none ? false : try mendBitmaps(repair, report)
        let hasWork =
            lostBitmaps || result.leaks > 0 || result.corruptions > 0 || needsRebuild || hasWrongFlags
        if repair != .none && hasWork { try mend(repair, from: before, report) }
        if hasWrongFlags { try checkFlags(repair: repair == .all || repair == .leaks, report) }
        if repair == .all && result.corruptions == 0 && result.checkErrors == 0 { try clearBits() }
        result.imageEndOffset = usedClusters << layout.clusterBits
        return result
    }

    /// Mends the refcounts.
    private mutating func mend(
        _ repair: RepairMode, from before: CheckResult, _ report: (String) -> Void
    ) throws(BlockError) {
        let lost = unmendable
        if repair == .all {
            try tables.setDirty(true)
            if needsRebuild {
                report("Rebuilding refcount structure")
                try rebuild()
            }
        }
        let first = result
        restart(from: before)
        isQuiet = true
        try compareAll(repair: repair, report)
        isQuiet = false
        unmendable = lost
        if repair == .all && needsRebuild {
            // What was wrong before the rebuild is right now.
            result.corruptionsFixed = max(0, first.corruptions - lost - result.corruptions)
            result.leaksFixed = first.leaks
            needsRebuild = false
        }
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
        unmendable = 0
    }

    /// All is well: the bits that say otherwise go.
    private func clearBits() throws(BlockError) {
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
        var limit = fileClusters
        let wasQuiet = isQuiet
        let counted = result
        repeat {
            let end = min(limit, start + ReferenceWindow.size(total: fileClusters))
            var window = ReferenceWindow(start..<max(start, end))
            // Every pass sees all references again: what they are counts once.
            let before = (result, unmendable)
            try countReferences(into: &window, report)
            limit = min(fileClusters, max(endOfReferences, try tables.refcounts().endOfBlocks))
            if start > 0 { (result, unmendable) = before } else { isQuiet = true }
            isQuiet = wasQuiet
            try checkOverlaps(window, report)
            isQuiet = true
            try compare(window, repair: repair, report)
            start = end
        } while start < limit
        isQuiet = wasQuiet
        result.totalClusters = counted.totalClusters
        // Counted twice, it agrees with its two uses; where more is wrong, that has been told.
        if !needsRebuild, unmendable == 0, let cluster = try tables.overlappingMetadata() {
            corruption("ERROR cluster \(cluster) holds two pieces of metadata", report)
        }
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
        from first: Int, _ window: ReferenceWindow, _ store: RefcountStore
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
        _ cluster: Int, _ window: ReferenceWindow, _ repair: RepairMode, _ store: RefcountStore,
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
        _ store: RefcountStore,
        _ report: (String) -> Void
    ) throws(BlockError) {
        hasWrongFlags = true
        let wasQuiet = isQuiet
        let isLeak = refcount > references
        let mends = repair == .all || (repair == .leaks && isLeak)
        let word = mends ? "Repairing" : isLeak ? "Leaked" : "ERROR"
        isQuiet = false
        tell("\(word) cluster \(cluster) refcount=\(refcount) reference=\(references)", report)
        isQuiet = wasQuiet
        if mends, references <= layout.maximumRefcount {
            try store.set(cluster, to: references)
            if isLeak { result.leaksFixed += 1 } else { result.corruptionsFixed += 1 }
            return
        }
        if isLeak { result.leaks += 1 } else { result.corruptions += 1 }
        if refcount == 0 && !isLeak { needsRebuild = true }
    }
}
