import BlockCore

/// A set of clusters in fixed memory, which may also claim clusters that it does not hold.
///
/// One bit for every residue of the cluster number: exact for files of up to 2^20 clusters.
struct ClusterFilter {
    private static let bitCount = 1 << 20
    private var words = [UInt64](repeating: 0, count: bitCount / 64)

    /// Adds a cluster, and returns whether it may have been there already.
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

/// Where an image's metadata lies: nothing else is ever written there, even if refcounts or tables are wrong.
///
/// Covers header, LUKS header, active and snapshots' L1 tables, active L2 tables, refcount table and blocks,
/// snapshot table.
struct Qcow2Protection {
    /// Everything but refcount blocks and L2 tables.
    var areas = ClusterRanges([])
    /// L2 tables; the allocator knows the refcount blocks (``Qcow2Allocator/isBlock(_:)``).
    var filter = ClusterFilter()
    /// The part of ``areas`` against which writes are checked.
    var guardedAreas = ClusterRanges([])
    /// The offsets of the snapshots' L2 tables, where writes are checked against them.
    var inactiveTables: Set<UInt64> = []
}

extension Qcow2State {
    /// Refuses changes to an image in which damage was found while writing.
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
            // The mark could not be set; this process still refuses all changes.
            hasUnflushedWrites = false
        }
        return error
    }

    /// Collects where the metadata lies, before the first change, and refuses an image whose metadata
    /// overlaps.
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
        // Shared tables are copied before they change, so that it is harmless how they are shared.
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

    /// The first cluster that is used twice: by areas, then by tables of one cluster each. The search for the
    /// latter takes the file part by part, in memory that does not grow with the image.
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
        // An entry that points behind the end is damage, which is reported where the entry is used. Two
        // alike, or very many, are an overlap here.
        var behindEnd: Set<HostCluster> = []
        return firstOwnCluster(store) { cluster in
            guard cluster >= store.virginCluster else { return false }
            return !behindEnd.insert(cluster).inserted || behindEnd.count > Self.mostBehindEnd
        }
    }

    /// The cluster of the first refcount block or unshared L2 table for which `matches` holds.
    private func firstOwnCluster(_ store: Qcow2Allocator, _ matches: (HostCluster) -> Bool) -> HostCluster? {
        for entry in store.table where entry & L2Entry.offsetMask != 0 && matches(layout.cluster(in: entry)) {
            return layout.cluster(in: entry)
        }
        for entry in l1 where entry & L2Entry.copiedFlag != 0 && entry & L2Entry.offsetMask != 0 {
            if matches(layout.cluster(in: entry)) { return layout.cluster(in: entry) }
        }
        return nil
    }

    func area(_ offset: Int, _ bytes: Int) -> Range<HostCluster> {
        layout.clusters(at: HostOffset(offset), bytes: bytes)
    }

    /// The clusters of the image's header and the LUKS header.
    func headerAreas() -> [Range<HostCluster>] {
        let isLuks = header.cryptMethod == Qcow2Encryption.Method.luks.rawValue
        let luks = isLuks ? header.luksRange ?? 0..<0 : 0..<0
        return [HostCluster(0)..<HostCluster(1), area(luks.lowerBound, luks.count)]
    }

    var refcountTableArea: Range<HostCluster> {
        area(header.refcountTableOffset, header.refcountTableClusters << layout.clusterBits)
    }

    /// The metadata that the header alone locates.
    func knownAreas() -> [Range<HostCluster>] {
        (headerAreas() + [area(header.l1Offset, header.l1Entries * 8), refcountTableArea])
            .filter { !$0.isEmpty }
    }

    /// The metadata that header, snapshots and bitmaps locate.
    func allAreas() throws(BlockError) -> [Range<HostCluster>] { try areas(of: .all) }

    /// Refuses a snapshot whose L1 table is not all in the file: the rest would read as zeroes of the
    /// snapshot.
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

    /// The last cluster that holds metadata.
    func lastMetadata() throws(BlockError) -> HostCluster? {
        try protectMetadata()
        var last = protection?.areas.last
        _ = firstOwnCluster(try refcounts()) { cluster in
            last = max(last ?? HostCluster(0), cluster)
            return false
        }
        return last
    }

    /// Whether a cluster holds metadata that is in use.
    func holdsMetadata(_ cluster: HostCluster) throws(BlockError) -> Bool {
        try protectMetadata()
        guard let protection else { return false }
        if protection.areas.contains(cluster) { return true }
        if protection.filter.mayContain(cluster), hasActiveTable(at: cluster) { return true }
        return try refcounts().isBlock(cluster)
    }

    /// Whether a cluster holds metadata other than L2 tables.
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

    /// Whether a cluster with a refcount of zero may be allocated.
    ///
    /// - Throws: `corrupt` when it holds metadata, whose refcount is above zero in every sound image.
    func mayAllocate(_ cluster: HostCluster) throws(BlockError) -> Bool {
        guard try isGuarded(cluster) else { return true }
        if isRepairing { return false }
        throw condemn("Cluster \(cluster) holds metadata and is not counted")
    }

    /// Refuses a guest write to clusters that hold metadata, or that lie behind the end of the file and are
    /// free: the L2 entry is wrong.
    func checkGuestClusters(_ hostOffset: HostOffset, count: Int) throws(BlockError) {
        let first = layout.cluster(at: hostOffset)
        for cluster in first..<first + count where try isGuarded(cluster) {
            throw condemn("An L2 entry refers to metadata at cluster \(cluster)")
        }
        let end = hostOffset + count << layout.clusterBits
        if end.bytes > knownEnd { try findEnd() }
        // Space that was reserved behind the end of the file has a refcount above zero.
        if hostOffset.bytes >= knownEnd, try refcounts().refcount(of: first) == 0 {
            throw condemn("An L2 entry refers to cluster \(first), which is beyond the end of the file")
        }
    }

    /// Refuses to take a reference from a free cluster, or the last one from a cluster that holds metadata.
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
