import BlockCore

/// What an image's tables and refcounts say, and what is wrong with that: a value.
struct Qcow2Survey {
    /// Every finding is a line; very many are counted only.
    var findings = Findings<String>(keeping: BoundedReport.mostLines)
    /// Guest clusters: how many are allocated, compressed, out of order.
    var allocatedClusters = 0
    var compressedClusters = 0
    var fragmentedClusters = 0
    /// One past the last cluster that is used or counted.
    var usedClusters = 0
    /// One past the last cluster that anything but a refcount refers to.
    var endOfReferences = 0

    /// Corruptions that no repair of refcounts can set right: entries that point nowhere sensible.
    var irreparable = 0
    /// Refcounts that are lower than the number of references.
    var mismatches = 0
    /// A refcount structure that cannot be trusted or lacks entries is built anew.
    var needsRebuild = false
    /// Some "copied" flag contradicts a refcount, or some bitmap of subclusters is impossible.
    var hasWrongFlags = false
    /// A piece of metadata is in a cluster that is used otherwise: some entry points to the wrong place, and
    /// what lies in the right one seems to be leaked.
    var hasOverlaps = false
    /// A cluster holds two pieces of metadata, each of them counted: a corruption, which ``findings`` tells
    /// and does not count. A repair asks again in the end, when flags and refcounts are right.
    var hasDoubleMetadata = false
    /// What is wrong with bitmaps.
    var badBitmaps = Qcow2BadBitmaps()
    /// Some entry of the snapshot table must be written anew, or cannot stay.
    var hasBadSnapshots = false
    /// Entries of the snapshot table that lack what version 3 requires: no damage, but completed by a repair.
    var incompleteSnapshots = 0
    /// The reason why not all references are known: some structure cannot be read. `nil` where all could be
    /// counted.
    var unknownReferences: String?
    /// A repair gave up entries that pointed nowhere: what they referred to may be among the leaks.
    var hasLosses = false
    /// How many corruptions and leaks were repaired.
    var corruptionsFixed = 0
    var leaksFixed = 0
    /// The reason why references of a snapshot may be missing although its tables can be read: they seem too
    /// short.
    var incompleteness: String?

    /// Whether every refcount is as high as there are references.
    var haveRefcountsAgreed: Bool { mismatches == 0 && !needsRebuild }

    /// Whether a repair has anything to do.
    var hasWork: Bool {
        findings.leaks > 0 || findings.corruptions > 0 || needsRebuild || hasWrongFlags || hasBadSnapshots
            || hasDoubleMetadata
    }

    /// Notes a corruption that is no matter of refcounts.
    mutating func corruption(_ line: @autoclosure () -> String) {
        irreparable += 1
        findings.corruption(line())
    }

    /// Notes that something may refer to clusters that nothing known refers to: none of those is freed.
    mutating func cannotFollow(_ reason: @autoclosure () -> String) {
        if unknownReferences == nil { unknownReferences = reason() }
    }

    /// Notes damage of the refcount structure.
    mutating func refcountCorruption(_ line: @autoclosure () -> String) {
        needsRebuild = true
        findings.corruption(line())
    }

    /// Notes that clusters are referred to.
    mutating func reach(_ end: Int) { endOfReferences = max(endOfReferences, end) }

    /// Takes over what stays true of an earlier survey: a structure that could not be trusted is not trusted
    /// because a repair changed something else.
    mutating func follow(_ earlier: Qcow2Survey) {
        needsRebuild = needsRebuild || earlier.needsRebuild
        hasOverlaps = hasOverlaps || earlier.hasOverlaps
        hasLosses = hasLosses || earlier.hasLosses
        usedClusters = max(usedClusters, earlier.usedClusters)
        corruptionsFixed += earlier.corruptionsFixed
        leaksFixed += earlier.leaksFixed
    }
}

/// What is wrong with the bitmaps of an image.
struct Qcow2BadBitmaps {
    /// Where in the directory the entries of damaged ones start.
    var positions: Set<Int> = []
    /// The extension or the directory itself is damaged.
    var hasBadDirectory = false
    /// How many clusters with bits the tables refer to.
    var dataClusters = 0
    /// The clusters of the directory.
    var directory = 0..<0

    /// How many findings this makes.
    var count: Int { positions.count + (hasBadDirectory ? 1 : 0) }
}
