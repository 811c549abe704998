import BlockCore

/// How much memory the caches take, in bytes: as asked for, within what is sensible.
struct Qcow2CacheSizes: Sendable {
    var l2Bytes = Qcow2.CacheBudget.l2Bytes
    var refcountBytes = Qcow2.CacheBudget.refcountBytes

    init() {}

    /// Takes `cache-size`, `l2-cache-size` and `refcount-cache-size`: the third is what two of them leave.
    init(_ options: inout OptionTree) throws(BlockError) {
        let both = try options.takeSize("cache-size")
        let l2 = try options.takeSize("l2-cache-size")
        let refcounts = try options.takeSize("refcount-cache-size")
        if let both {
            guard l2 == nil || refcounts == nil else {
                throw BlockError(
                    .invalidArgument,
                    "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time")
            }
            try Self.check("l2-cache-size", l2, within: both)
            try Self.check("refcount-cache-size", refcounts, within: both)
        }
        l2Bytes = l2 ?? both.map { $0 - (refcounts ?? $0 / 5) } ?? l2Bytes
        refcountBytes = refcounts ?? both.map { $0 - l2Bytes } ?? refcountBytes
    }

    private static func check(_ name: String, _ size: Int?, within both: Int) throws(BlockError) {
        guard let size, size > both else { return }
        throw BlockError(.invalidArgument, "\(name) may not exceed cache-size")
    }
}

/// Whose freed clusters give their space back to the file system.
struct Qcow2PassedDiscards: Sendable {
    /// What the guest discards; `nil` leaves it to `discard`.
    var ofGuest: Bool?
    /// What a deleted snapshot had.
    var ofSnapshots = true
    /// Tables that moved, and what was written over.
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
    /// New cache sizes and overlap checks replace old ones that would contradict them.
    public static func joined(_ new: OptionTree, over old: OptionTree) -> OptionTree {
        let parts = ["l2-cache-size", "refcount-cache-size"]
        let checks = ["overlap-check", "overlap-check.template"]
        var kept = old
        if new["cache-size"] != nil { for key in parts { kept[key] = nil } }
        if parts.contains(where: { new[$0] != nil }) { kept["cache-size"] = nil }
        if checks.contains(where: { new[$0] != nil }) { for key in checks { kept[key] = nil } }
        return kept.changed(by: new)
    }

    /// Takes `overlap-check`. Writes are always checked against all metadata but the L2 tables of snapshots,
    /// which is what `cached` asks for, and more than `constant` does.
    static func takeOverlapCheck(_ options: inout OptionTree) throws(BlockError) {
        let short = options.take("overlap-check")
        let long = options.take("overlap-check.template")
        if let short, let long, short != long {
            throw BlockError(
                .invalidArgument,
                "Conflicting values for qcow2 options 'overlap-check' ('\(short)') and "
                    + "'overlap-check.template' ('\(long)')")
        }
        switch short ?? long {
        case nil, "constant", "cached": return
        case "none", "all":
            throw BlockError(
                .unsupported, "overlap-check can be 'constant' or 'cached': 'cached' is what is always done")
        case let other?:
            throw BlockError(
                .invalidArgument,
                "Unsupported value '\(other)' for qcow2 option 'overlap-check'. Allowed are any of the "
                    + "following: none, constant, cached, all")
        }
    }

    /// Whether space that the guest gives up goes back to the file system.
    var passesGuestDiscards: Bool {
        guard discardUnmaps else { return false }
        return metadata.withLock { $0.passesDiscards.ofGuest } ?? true
    }
}
