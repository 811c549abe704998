import BlockCore
import Synchronization

/// The user's options for an open image, with QEMU's names, rules and messages.
struct Qcow2OpenOptions {
    var caches: Qcow2CacheSizes
    /// The seconds without use after which cached tables are dropped; 0 for never.
    var cleanIntervalSeconds = 0
    var isLazy: Bool?
    var overlapChecks: Qcow2OverlapChecks
    var passesDiscards: Qcow2PassedDiscards
    /// Whether clusters that the guest discards or zeroes stay allocated.
    var keepsDiscarded = false

    /// - Throws: `invalidArgument`, naming the option.
    init(_ options: inout OptionTree, _ header: Qcow2Header) throws(BlockError) {
        caches = try Qcow2CacheSizes(&options, header)
        if let interval = try options.takeNumber("cache-clean-interval") {
            guard interval <= UInt32.max else { throw Self.refusal("Cache clean interval too big") }
            cleanIntervalSeconds = interval
        }
        isLazy = try options.takeFlag("lazy-refcounts")
        guard isLazy != true || header.version >= 3 else {
            throw Self.refusal(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level")
        }
        overlapChecks = try Qcow2OverlapChecks(&options)
        passesDiscards = try Qcow2PassedDiscards(&options)
        keepsDiscarded = try options.takeFlag("discard-no-unref") ?? false
        guard !keepsDiscarded || header.version >= 3 else {
            throw Self.refusal("discard-no-unref is only supported since qcow2 version 3")
        }
    }

    fileprivate static func refusal(_ message: String) -> BlockError { BlockError(.invalidArgument, message) }
}

/// The memory of the caches, in bytes.
struct Qcow2CacheSizes: Sendable {
    var l2Bytes = Qcow2.CacheBudget.l2Bytes
    var refcountBytes = Qcow2.CacheBudget.refcountBytes
    /// L2 tables are cached in slices of this size.
    var l2SliceBytes: Int

    init(_ layout: Qcow2Layout) { l2SliceBytes = layout.sliceSize }

    /// Takes `l2-cache-entry-size`, and `cache-size`, `l2-cache-size` and `refcount-cache-size`, of which the
    /// first is the sum of the other two.
    init(_ options: inout OptionTree, _ header: Qcow2Header) throws(BlockError) {
        let layout = header.layout
        l2SliceBytes = layout.sliceSize
        let both = try options.takeSize("cache-size")
        let l2 = try options.takeSize("l2-cache-size")
        let refcounts = try options.takeSize("refcount-cache-size")
        let slice = try options.takeSize("l2-cache-entry-size")
        let tables = layout.l1Entries(forVirtualSize: header.virtualSize) << layout.clusterBits
        l2Bytes = min(l2 ?? l2Bytes, tables)
        refcountBytes = refcounts ?? refcountBytes
        if let both { try share(both, l2, refcounts, tables: tables, layout) }
        if let slice { try setSlice(slice, layout) }
        guard l2Bytes / l2SliceBytes <= Int32.max else { throw Self.refusal("L2 cache size too big") }
        guard refcountBytes >> layout.clusterBits <= Int32.max else {
            throw Self.refusal("Refcount cache size too big")
        }
    }

    /// Divides a common size: enough for all L2 tables of the disk, the rest for refcounts; where it is too
    /// small for that, all but the least number of refcounts for L2 tables.
    private mutating func share(
        _ both: Int, _ l2: Int?, _ refcounts: Int?, tables: Int, _ layout: Qcow2Layout
    ) throws(BlockError) {
        guard l2 == nil || refcounts == nil else {
            throw Self.refusal(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time")
        }
        guard l2 ?? 0 <= both else { throw Self.refusal("l2-cache-size may not exceed cache-size") }
        guard refcounts ?? 0 <= both else {
            throw Self.refusal("refcount-cache-size may not exceed cache-size")
        }
        let least = Qcow2.CacheBudget.leastRefcountClusters << layout.clusterBits
        if l2 != nil {
            refcountBytes = both - l2Bytes
        } else if let refcounts {
            l2Bytes = both - refcounts
        } else {
            l2Bytes = both - least >= tables ? tables : both - min(both, least)
            refcountBytes = both - l2Bytes
        }
    }

    private mutating func setSlice(_ bytes: Int, _ layout: Qcow2Layout) throws(BlockError) {
        guard bytes.isPowerOfTwo, bytes >= Qcow2.sectorBytes, bytes <= layout.clusterSize else {
            throw Self.refusal(
                "L2 cache entry size must be a power of two between \(Qcow2.sectorBytes) and the cluster "
                    + "size (\(layout.clusterSize))")
        }
        l2SliceBytes = bytes
    }

    private static func refusal(_ message: String) -> BlockError { Qcow2OpenOptions.refusal(message) }
}

/// Which freed clusters give their space back to the file system.
struct Qcow2PassedDiscards: Sendable {
    /// Clusters that the guest discards; `nil` means as `discard` says.
    var ofGuest: Bool?
    /// Clusters of a deleted snapshot.
    var ofSnapshots = true
    /// Old places of tables that moved, and clusters that were replaced by others.
    var ofOthers = false

    init() {}

    /// Takes `pass-discard-request`, `pass-discard-snapshot` and `pass-discard-other`.
    init(_ options: inout OptionTree) throws(BlockError) {
        ofGuest = try options.takeFlag("pass-discard-request")
        if let passes = try options.takeFlag("pass-discard-snapshot") { ofSnapshots = passes }
        if let passes = try options.takeFlag("pass-discard-other") { ofOthers = passes }
    }
}

extension Qcow2Driver {
    /// New cache sizes and overlap checks remove old ones that would contradict them.
    public static func joined(_ new: OptionTree, over old: OptionTree) -> OptionTree {
        let parts = ["l2-cache-size", "refcount-cache-size"]
        let checks = ["overlap-check", "overlap-check.template"]
        var kept = old
        if new["cache-size"] != nil { for key in parts { kept[key] = nil } }
        if parts.contains(where: { new[$0] != nil }) { kept["cache-size"] = nil }
        if checks.contains(where: { new[$0] != nil }) { for key in checks { kept[key] = nil } }
        return kept.changed(by: new)
    }

    /// Applies the options to the open image.
    func use(_ choice: Qcow2OpenOptions) {
        metadata.withLock { tables in
            if let lazy = choice.isLazy { tables.header.wantsLazyRefcounts = lazy }
            tables.passesDiscards = choice.passesDiscards
            tables.overlapChecks = choice.overlapChecks
            tables.keepsDiscarded = choice.keepsDiscarded
        }
        guard choice.cleanIntervalSeconds > 0 else { return }
        let timer = RepeatingTimer(everyNanoseconds: choice.cleanIntervalSeconds * 1_000_000_000) {
            [weak self] in self?.cleanCaches() != nil
        }
        cleaner.withLock { $0 = timer }
    }

    /// Frees the memory of cached tables that were not used since the last call.
    func cleanCaches() {
        metadata.withLock { tables in
            tables.l2Cache.dropUnused()
            tables.loadedRefcounts?.cache.dropUnused()
        }
    }

    /// The bytes of cached tables.
    var cachedBytes: Int {
        metadata.withLock { tables in
            tables.l2Cache.cachedBytes + (tables.loadedRefcounts?.cache.cachedBytes ?? 0)
        }
    }

    /// Whether discarded space is given back to the file system.
    var passesGuestDiscards: Bool {
        guard discardUnmaps else { return false }
        return metadata.withLock { $0.passesDiscards.ofGuest } ?? true
    }
}
