import BlockCore

/// A set of clusters that may answer "perhaps" for ones that it does not hold, in fixed memory.
///
/// One bit for every residue of the cluster number: exact for files of up to 2^20 clusters.
struct ClusterFilter {
    private static let bitCount = 1 << 20
    private var words = [UInt64](repeating: 0, count: bitCount / 64)

    /// Adds a cluster, and answers whether it may have been there already.
    @discardableResult
    mutating func insert(_ cluster: HostCluster) -> Bool {
        let index = cluster.index & (Self.bitCount - 1)
        let bit = UInt64(1) << UInt64(index & 63)
        defer { words[index >> 6] |= bit }
        return words[index >> 6] & bit != 0
    }

    /// Adds all clusters of a range.
    mutating func insert(_ range: Range<HostCluster>) {
        for cluster in range.prefix(Self.bitCount) { insert(cluster) }
    }

    func mayContain(_ cluster: HostCluster) -> Bool {
        let index = cluster.index & (Self.bitCount - 1)
        return words[index >> 6] & (1 << UInt64(index & 63)) != 0
    }
}

/// Where an image's metadata lies, so that nothing else is ever written there, whatever refcounts and tables
/// say.
///
/// Covers header, LUKS header, active and snapshots' L1 tables, active L2 tables, refcount table and blocks,
/// snapshot table.
struct Qcow2Protection {
    /// Everything but refcount blocks and L2 tables.
    var areas = ClusterRanges([])
    /// L2 tables; the allocator knows the refcount blocks (``Qcow2Allocator/isBlock(_:)``).
    var filter = ClusterFilter()
    /// Those of ``areas`` that writes are checked against.
    var guardedAreas = ClusterRanges([])
    /// Offsets of the L2 tables of snapshots, where writes are checked against them.
    var inactiveTables: Set<UInt64> = []
}

extension Qcow2State {
    /// Refuses changes to an image in which damage was met.
    func checkSound() throws(BlockError) {
        if let damage { throw damage }
        guard headerIsUncertain else { return }
        try file.write(header.fixedBytes().span.bytes, at: 0)
        try file.flush()
        headerIsUncertain = false
    }

    /// Notes damage that makes further writing dangerous: the image is marked as corrupt (version 3) and
    /// takes no changes until it is repaired.
    func condemn(_ message: String) -> BlockError {
        let error = BlockError(
            .corrupt, "qcow2: \(message); the image takes no more changes", path: file.filename,
            hint: "Repair it with 'check -r all'.")
        damage = error
        guard layout.version >= 3, !isReadOnly, !header.incompatible.contains(.corrupt) else { return error }
        header.incompatible.insert(.corrupt)
        do throws(BlockError) {
            try writeHeaderFields()
            try barrier()
        } catch {
            // The mark could not be set; this process makes no changes all the same.
            hasUnflushedWrites = false
        }
        return error
    }

    /// Before the first change: finds out where the metadata lies, and whether any of it overlaps.
    func protectMetadata() throws(BlockError) {
        try checkSound()
        if protection != nil { return }
        try reachL1()
        let areas = ClusterRanges(isRepairing ? knownAreas() : try allAreas())
        let store = try refcounts()
        let refusesOverlaps = !isRepairing && overlapChecks.isSuperset(of: .cached)
        if refusesOverlaps, let cluster = firstOverlap(areas, store) {
            throw condemn("Metadata overlaps at cluster \(cluster)")
        }
        var filter = ClusterFilter()
        // Tables that are shared are copied before they are changed, so they may be shared in any way.
        for entry in l1 where entry & L2Entry.offsetMask != 0 { filter.insert(layout.cluster(in: entry)) }
        var found = Qcow2Protection(areas: areas, filter: filter)
        if overlapChecks != .cached, !isRepairing {
            found.guardedAreas = ClusterRanges(try self.areas(of: overlapChecks))
            found.inactiveTables = try inactiveTables()
        }
        protection = found
    }

    /// A cluster that holds two pieces of metadata, if there is one.
    func overlappingMetadata() throws(BlockError) -> HostCluster? {
        firstOverlap(ClusterRanges(try allAreas()), try refcounts())
    }

    /// How many clusters are compared at once: 2 MiB of bits.
    private static let clustersAtOnce = 1 << 24
    /// How many tables behind the end of the file are remembered.
    private static let mostBehindEnd = 1 << 16

    /// The first cluster that is found to be used twice: by areas, then by tables of one cluster each. Looks
    /// at the latter part by part, in memory that does not grow with the image.
    private func firstOverlap(_ areas: ClusterRanges, _ store: Qcow2Allocator) -> HostCluster? {
        if let overlap = areas.overlaps.first { return overlap.lowerBound }
        var start = HostCluster(0)
        while start < store.virginCluster {
            let part = start..<min(store.virginCluster, start + Self.clustersAtOnce)
            var seen = UnitBitmap(part.lowerBound.index..<part.upperBound.index)
            let found = firstOwnCluster(store) { cluster in
                part.contains(cluster) && (areas.contains(cluster) || !seen.insert(cluster.index))
            }
            if let found { return found }
            start = part.upperBound
        }
        // Entries that point behind the end are damage, which is met where they are used; two alike, or very
        // many, are told now.
        var behindEnd: Set<HostCluster> = []
        return firstOwnCluster(store) { cluster in
            guard cluster >= store.virginCluster else { return false }
            return !behindEnd.insert(cluster).inserted || behindEnd.count > Self.mostBehindEnd
        }
    }

    /// The first refcount block or unshared L2 table for whose cluster `isMeant` holds.
    private func firstOwnCluster(_ store: Qcow2Allocator, _ isMeant: (HostCluster) -> Bool) -> HostCluster? {
        for entry in store.table where entry & L2Entry.offsetMask != 0 && isMeant(layout.cluster(in: entry)) {
            return layout.cluster(in: entry)
        }
        for entry in l1 where entry & L2Entry.copiedFlag != 0 && entry & L2Entry.offsetMask != 0 {
            if isMeant(layout.cluster(in: entry)) { return layout.cluster(in: entry) }
        }
        return nil
    }

    func area(_ offset: Int, _ bytes: Int) -> Range<HostCluster> {
        layout.clusters(at: HostOffset(offset), bytes: bytes)
    }

    /// The header, and that of LUKS.
    func headerAreas() -> [Range<HostCluster>] {
        let isLuks = header.cryptMethod == Qcow2Encryption.Method.luks.rawValue
        let luks = isLuks ? header.luksRange ?? 0..<0 : 0..<0
        return [HostCluster(0)..<HostCluster(1), area(luks.lowerBound, luks.count)]
    }

    var refcountTableArea: Range<HostCluster> {
        area(header.refcountTableOffset, header.refcountTableClusters << layout.clusterBits)
    }

    /// What the header alone tells.
    func knownAreas() -> [Range<HostCluster>] {
        (headerAreas() + [area(header.l1Offset, header.l1Entries * 8), refcountTableArea])
            .filter { !$0.isEmpty }
    }

    /// What header, snapshots and bitmaps tell.
    func allAreas() throws(BlockError) -> [Range<HostCluster>] { try areas(of: .all) }

    /// An L1 table that the file does not have all of would read as if the snapshot held zeroes.
    ///
    /// - Throws: `corrupt`, with the snapshot's id.
    func checkInFile(_ snapshot: Qcow2Snapshot, _ fileClusters: Int) throws(BlockError) {
        let (end, overflow) = snapshot.l1Offset.addingReportingOverflow(snapshot.l1Entries &* 8)
        guard snapshot.l1Entries > 0, overflow || layout.clusters(end) > fileClusters else { return }
        throw BlockError(
            .corrupt, "The L1 table of snapshot '\(snapshot.info.id)' is beyond the end of the file",
            path: file.filename, hint: "Repair the image with 'check -r all'.")
    }

    // MARK: Asking

    /// The last cluster that metadata lies in.
    func lastMetadata() throws(BlockError) -> HostCluster? {
        try protectMetadata()
        var last = protection?.areas.last
        _ = firstOwnCluster(try refcounts()) { cluster in
            last = max(last ?? HostCluster(0), cluster)
            return false
        }
        return last
    }

    /// Whether metadata that is in use lies in a cluster.
    func holdsMetadata(_ cluster: HostCluster) throws(BlockError) -> Bool {
        try protectMetadata()
        guard let protection else { return false }
        if protection.areas.contains(cluster) { return true }
        if protection.filter.mayContain(cluster), hasActiveTable(at: cluster) { return true }
        return try refcounts().isBlock(cluster)
    }

    /// Whether metadata other than L2 tables lies in a cluster.
    func holdsFixedMetadata(_ cluster: HostCluster) throws(BlockError) -> Bool {
        try protectMetadata()
        guard let protection else { return false }
        if protection.areas.contains(cluster) { return true }
        return try refcounts().isBlock(cluster)
    }

    /// Whether an entry of the active L1 table refers to a cluster.
    func hasActiveTable(at cluster: HostCluster) -> Bool {
        let offset = UInt64(cluster.index) << UInt64(layout.clusterBits)
        return l1.contains { $0 & L2Entry.offsetMask == offset }
    }

    /// Whether a cluster whose refcount is zero may be given out.
    ///
    /// - Throws: `corrupt` when it holds metadata, which no sound image leaves uncounted.
    func mayAllocate(_ cluster: HostCluster) throws(BlockError) -> Bool {
        guard try isGuarded(cluster) else { return true }
        if isRepairing { return false }
        throw condemn("Cluster \(cluster) holds metadata and is not counted")
    }

    /// Guards a write to clusters that an L2 entry calls the guest's own.
    func checkGuestClusters(_ hostOffset: HostOffset, count: Int) throws(BlockError) {
        let first = layout.cluster(at: hostOffset)
        for cluster in first..<first + count where try isGuarded(cluster) {
            throw condemn("An L2 entry refers to metadata at cluster \(cluster)")
        }
        let end = hostOffset + count << layout.clusterBits
        if end.bytes > knownEnd { try findEnd() }
        // Space that was reserved behind the end of the file is counted.
        if hostOffset.bytes >= knownEnd, try refcounts().refcount(of: first) == 0 {
            throw condemn("An L2 entry refers to cluster \(first), which is beyond the end of the file")
        }
    }

    /// Guards the release of a reference.
    func checkRelease(_ cluster: HostCluster, refcount: UInt64) throws(BlockError) {
        if refcount == 0 { throw condemn("Cluster \(cluster) is in use and not counted") }
        if refcount == 1, try holdsMetadata(cluster) {
            throw condemn("Cluster \(cluster) holds metadata and would be freed")
        }
    }
}

extension Array where Element == Int {
    /// In a sorted array, the index of the first element that is not below `value`.
    func firstIndex(notBelow value: Int) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if self[middle] < value { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
