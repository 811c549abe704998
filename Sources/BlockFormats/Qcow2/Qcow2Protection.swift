import BlockCore

/// A set of clusters that may answer "perhaps" for ones that it does not hold, in fixed memory.
///
/// One bit for every residue of the cluster number: exact for files of up to 2^20 clusters.
struct ClusterFilter {
    private static let bitCount = 1 << 20
    private var words = [UInt64](repeating: 0, count: bitCount / 64)

    /// Adds a cluster, and answers whether it may have been there already.
    @discardableResult
    mutating func insert(_ cluster: Int) -> Bool {
        let index = cluster & (Self.bitCount - 1)
        let bit = UInt64(1) << UInt64(index & 63)
        defer { words[index >> 6] |= bit }
        return words[index >> 6] & bit != 0
    }

    func mayContain(_ cluster: Int) -> Bool {
        let index = cluster & (Self.bitCount - 1)
        return words[index >> 6] & (1 << UInt64(index & 63)) != 0
    }
}

/// Where an image's metadata lies, so that nothing else is ever written there, whatever refcounts and tables
/// say.
///
/// Covers header, LUKS header, active and snapshots' L1 tables, active L2 tables, refcount table and blocks,
/// snapshot table.
struct Qcow2Protection {
    /// Everything but refcount blocks and L2 tables, in clusters.
    var areas: [Range<Int>] = []
    var filter = ClusterFilter()
}

extension Qcow2Metadata {
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
        let areas = isRepairing ? knownAreas() : try allAreas()
        let store = try refcounts()
        var (filter, doubtful) = filtered(areas, store)
        if !isRepairing, let cluster = firstUsedTwice(doubtful, areas, store) {
            throw condemn("Metadata overlaps at cluster \(cluster)")
        }
        // Tables that are shared are copied before they are changed, so they may be shared in any way.
        for entry in l1 where entry & L2Entry.offsetMask != 0 { filter.insert(cluster(of: entry)) }
        protection = Qcow2Protection(areas: areas, filter: filter)
    }

    /// A cluster that holds two pieces of metadata, if there is one.
    func overlappingMetadata() throws(BlockError) -> Int? {
        let areas = try allAreas()
        let store = try refcounts()
        return firstUsedTwice(filtered(areas, store).doubtful, areas, store)
    }

    /// The clusters that metadata has to itself, and those (sorted) that may be among them twice.
    private func filtered(
        _ areas: [Range<Int>], _ store: RefcountStore
    ) -> (filter: ClusterFilter, doubtful: [Int]) {
        var filter = ClusterFilter()
        var doubtful: [Int] = []
        eachOwnCluster(areas, store) { cluster in
            if filter.insert(cluster) { doubtful.append(cluster) }
        }
        return (filter, doubtful.sorted())
    }

    /// The cluster that an entry of an L1 or refcount table refers to.
    private func cluster(of entry: UInt64) -> Int { Int(entry & L2Entry.offsetMask) >> layout.clusterBits }

    /// Calls `body` for every cluster that metadata has to itself, once for each use.
    private func eachOwnCluster(_ areas: [Range<Int>], _ store: RefcountStore, _ body: (Int) -> Void) {
        for area in areas {
            for cluster in area { body(cluster) }
        }
        for entry in store.table where entry & L2Entry.offsetMask != 0 { body(cluster(of: entry)) }
        for entry in l1 where entry & L2Entry.copiedFlag != 0 && entry & L2Entry.offsetMask != 0 {
            body(cluster(of: entry))
        }
    }

    /// Of clusters that the filter could not tell apart (sorted), the first that really is used twice.
    private func firstUsedTwice(_ doubtful: [Int], _ areas: [Range<Int>], _ store: RefcountStore) -> Int? {
        guard !doubtful.isEmpty else { return nil }
        var uses = [UInt8](repeating: 0, count: doubtful.count)
        var found: Int?
        eachOwnCluster(areas, store) { cluster in
            let index = doubtful.firstIndex(notBelow: cluster)
            guard index < doubtful.count, doubtful[index] == cluster, found == nil else { return }
            uses[index] += 1
            if uses[index] > 1 { found = cluster }
        }
        return found
    }

    private func area(_ offset: Int, _ bytes: Int) -> Range<Int> {
        let first = offset >> layout.clusterBits
        return first..<first + layout.clusters(bytes)
    }

    /// What the header alone tells.
    func knownAreas() -> [Range<Int>] {
        let table = header.refcountTableClusters << layout.clusterBits
        let isLuks = header.cryptMethod == Qcow2Encryption.Method.luks.rawValue
        let luks = isLuks ? header.luksRange ?? 0..<0 : 0..<0
        return [
            0..<1, area(luks.lowerBound, luks.count), area(header.l1Offset, header.l1Entries * 8),
            area(header.refcountTableOffset, table),
        ].filter { !$0.isEmpty }
    }

    /// What header, snapshots and bitmaps tell.
    func allAreas() throws(BlockError) -> [Range<Int>] {
        let (snapshots, bytes) = try snapshotTable()
        var areas = knownAreas()
        if bytes > 0 { areas.append(area(header.snapshotsOffset, bytes)) }
        for snapshot in snapshots where snapshot.l1Entries > 0 {
            areas.append(area(snapshot.l1Offset, snapshot.l1Entries * 8))
        }
        return areas + (try bitmapAreas())
    }

    // MARK: Asking

    /// The last cluster that metadata lies in.
    func lastMetadata() throws(BlockError) -> Int? {
        try protectMetadata()
        var last: Int?
        eachOwnCluster(protection?.areas ?? [], try refcounts()) { last = max(last ?? 0, $0) }
        return last
    }

    /// Whether metadata that is in use lies in a cluster.
    func holdsMetadata(_ cluster: Int) throws(BlockError) -> Bool {
        try protectMetadata()
        guard let protection, protection.filter.mayContain(cluster) else { return false }
        if protection.areas.contains(where: { $0.contains(cluster) }) { return true }
        let offset = UInt64(cluster) << UInt64(layout.clusterBits)
        if l1.contains(where: { $0 & L2Entry.offsetMask == offset }) { return true }
        return try refcounts().table.contains { $0 & L2Entry.offsetMask == offset }
    }

    /// Whether metadata other than L2 tables lies in a cluster.
    func holdsFixedMetadata(_ cluster: Int) throws(BlockError) -> Bool {
        try protectMetadata()
        guard let protection, protection.filter.mayContain(cluster) else { return false }
        if protection.areas.contains(where: { $0.contains(cluster) }) { return true }
        let offset = UInt64(cluster) << UInt64(layout.clusterBits)
        return try refcounts().table.contains { $0 & L2Entry.offsetMask == offset }
    }

    /// Whether a cluster whose refcount is zero may be given out.
    ///
    /// - Throws: `corrupt` when it holds metadata, which no sound image leaves uncounted.
    func mayAllocate(_ cluster: Int) throws(BlockError) -> Bool {
        guard try holdsMetadata(cluster) else { return true }
        if isRepairing { return false }
        throw condemn("Cluster \(cluster) holds metadata and is not counted")
    }

    /// Guards a write to clusters that an L2 entry calls the guest's own.
    func checkGuestClusters(_ hostOffset: Int, count: Int) throws(BlockError) {
        let first = hostOffset >> layout.clusterBits
        for cluster in first..<first + count where try holdsMetadata(cluster) {
            throw condemn("An L2 entry refers to metadata at cluster \(cluster)")
        }
        let end = hostOffset + count << layout.clusterBits
        if end > knownEnd { try findEnd() }
        // Space that was reserved behind the end of the file is counted.
        if hostOffset >= knownEnd, try refcounts().refcount(of: first) == 0 {
            throw condemn("An L2 entry refers to cluster \(first), which is beyond the end of the file")
        }
    }

    /// Guards the release of a reference.
    func checkRelease(_ cluster: Int, refcount: UInt64) throws(BlockError) {
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
