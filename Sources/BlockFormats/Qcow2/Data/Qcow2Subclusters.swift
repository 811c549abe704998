import BlockCore

/// Extended L2 entries (section "Extended L2 Entries"): a cluster's 32 subclusters are data, zero or
/// unallocated on their own, so that a write completes no more than the subclusters that it touches.
extension L2Entry {
    /// One bit for each allocated subcluster.
    var allocatedSubclusters: UInt32 { UInt32(truncatingIfNeeded: bitmap) }
    /// One bit for each subcluster that reads as zeroes.
    var zeroSubclusters: UInt32 { UInt32(truncatingIfNeeded: bitmap >> 32) }

    /// The entry with other bits for its subclusters.
    func with(allocated: UInt32, zero: UInt32) -> L2Entry {
        L2Entry(raw: raw, bitmap: UInt64(allocated) | UInt64(zero) << 32)
    }

    /// The kind of one subcluster.
    func kind(ofSubcluster index: Int, _ layout: Qcow2Layout) -> Kind {
        let cluster = kind(layout)
        if cluster == .compressed { return .compressed }
        if allocatedSubclusters & (1 << UInt32(index)) != 0 { return .data }
        guard zeroSubclusters & (1 << UInt32(index)) != 0 else { return .unallocated }
        return cluster == .unallocated ? .zeroPlain : .zeroAllocated
    }

    /// What is wrong with the subclusters of an entry.
    func bitmapProblem(_ layout: Qcow2Layout) -> String? {
        guard bitmap != 0 else { return nil }
        switch kind(layout) {
        case .compressed: return "compressed cluster with a subcluster bitmap"
        case .unallocated where allocatedSubclusters != 0: return "allocated subclusters without a cluster"
        default:
            return allocatedSubclusters & zeroSubclusters == 0 ? nil : "subclusters both allocated and zero"
        }
    }

    /// ``bitmapProblem(_:)`` as a line of a check, in QEMU's words.
    ///
    /// - Parameter index: the entry's number in its table.
    func bitmapFinding(_ index: Int, _ layout: Qcow2Layout) -> String? {
        guard bitmapProblem(layout) != nil else { return nil }
        switch kind(layout) {
        case .compressed:
            return "ERROR compressed cluster \(index) with non-zero subcluster allocation bitmap, "
                + "entry=0x\(hex(raw))"
        case .unallocated: return "ERROR: Unallocated cluster has non-zero subcluster allocation map"
        default:
            return "ERROR offset=\(hex(hostOffset)): Allocated cluster has corrupted subcluster allocation "
                + "bitmap"
        }
    }

    /// The entry with a valid bitmap; allocated subclusters stay allocated if the cluster has a place.
    func withSoundBitmap(_ layout: Qcow2Layout) -> L2Entry {
        switch kind(layout) {
        case .compressed: L2Entry(raw: raw)
        case .unallocated: with(allocated: 0, zero: zeroSubclusters)
        default: with(allocated: allocatedSubclusters, zero: zeroSubclusters & ~allocatedSubclusters)
        }
    }
}

extension Qcow2Layout {
    /// Entry number `index` of the L2 table in `bytes`.
    func entry(_ index: Int, of bytes: RawSpan) -> L2Entry {
        guard hasSubclusters else { return L2Entry(raw: bytes.bigEndian(at: index &* 8) ?? 0) }
        return L2Entry(
            raw: bytes.bigEndian(at: index &* 16) ?? 0, bitmap: bytes.bigEndian(at: index &* 16 &+ 8) ?? 0)
    }

    /// Sets entry number `index` of the L2 table in `bytes`.
    func store(_ entry: L2Entry, _ index: Int, in bytes: inout MutableRawSpan) {
        bytes.storeBigEndian(entry.raw, at: index * l2EntryBytes)
        if hasSubclusters { bytes.storeBigEndian(entry.bitmap, at: index * l2EntryBytes + 8) }
    }

    /// The number of the subcluster at a guest or host offset.
    func subcluster(_ offset: Int) -> Int { (offset & (clusterSize - 1)) / subclusterSize }

    /// The bits of the subclusters that a range touches in the cluster that starts at `cluster`.
    func subclusterMask(_ range: Range<Int>, inCluster cluster: Int) -> UInt32 {
        let inside = range.clamped(to: cluster..<cluster + clusterSize)
        guard !inside.isEmpty else { return 0 }
        let first = subcluster(inside.lowerBound)
        let last = subcluster(inside.upperBound - 1)
        return (.max << UInt32(first)) & (.max >> UInt32(Qcow2.subclusters - 1 - last))
    }

    /// `offset` rounded up to a subcluster; it is at most the largest disk.
    func roundedUpToSubcluster(_ offset: Int) -> Int {
        (offset + subclusterSize - 1) & ~(subclusterSize - 1)
    }
}

extension Qcow2State {
    // MARK: Mapping

    /// The run of subclusters of one kind at `offset`, within one slice of its L2 table.
    func subclusterExtent(at offset: Int, limit: Int, table: HostOffset) throws(BlockError) -> Extent {
        let (slot, first) = try l2Slot(table: table, index: layout.l2Index(of: GuestOffset(offset)))
        let entry = cachedEntry(slot, first)
        try checkBitmap(entry, guest: offset)
        let inside = offset & (layout.clusterSize - 1)
        let start = layout.subcluster(offset)
        let kind = entry.kind(ofSubcluster: start, layout)
        let keepsPlace = entry.kind(layout) == .data
        if keepsPlace { try checkDataOffset(entry, guest: GuestOffset(offset - inside)) }
        let perSlice = l2Cache.sliceSize / layout.l2EntryBytes
        let equal = run(of: kind, in: entry, from: start)
        var length = equal * layout.subclusterSize - inside % layout.subclusterSize
        var index = first + 1
        // A run that reaches a cluster's end may continue in the next one.
        while length < limit, (inside + length) & (layout.clusterSize - 1) == 0, index < perSlice {
            let next = cachedEntry(slot, index)
            guard next.bitmapProblem(layout) == nil, next.kind(ofSubcluster: 0, layout) == kind else { break }
            let place = entry.hostOffset + (index - first) << layout.clusterBits
            guard (next.kind(layout) == .data) == keepsPlace, !keepsPlace || next.hostOffset == place
            else { break }
            length += run(of: kind, in: next, from: 0) * layout.subclusterSize
            index += 1
        }
        let host = entry.hostOffset.bytes + inside
        let status: Extent.Status =
            switch kind {
            case .unallocated: .unallocated
            case .zeroPlain: .zero(hostOffset: nil)
            case .zeroAllocated: .zero(hostOffset: host)
            case .data: .data(hostOffset: host)
            case .compressed: .encoded(compressed: true)
            }
        let reserved = kind == .unallocated && keepsPlace ? host : nil
        return Extent(status, length: min(limit, length), child: data.child, reservedOffset: reserved)
    }

    /// The number of subclusters from `start` on that are of one kind.
    private func run(of kind: L2Entry.Kind, in entry: L2Entry, from start: Int) -> Int {
        if kind == .compressed { return Qcow2.subclusters - start }
        let zero = entry.zeroSubclusters
        let allocated = entry.allocatedSubclusters
        let equal =
            switch kind {
            case .data: allocated
            case .zeroPlain, .zeroAllocated: zero
            default: ~(allocated | zero)
            }
        return min((~(equal >> UInt32(start))).trailingZeroBitCount, Qcow2.subclusters - start)
    }

    private func checkBitmap(_ entry: L2Entry, guest: Int) throws(BlockError) {
        if let problem = entry.bitmapProblem(layout) {
            throw corrupt("Invalid L2 entry at guest offset \(layout.roundedDown(guest)): \(problem)")
        }
    }

    // MARK: Writing

    /// As ``grant(_:over:)``: takes space for the first part of a write, with the subclusters that it has to
    /// complete.
    func grantSubclusters(_ guest: Range<Int>) throws(BlockError) -> WriteGrant {
        let start = guest.lowerBound
        let inside = start & (layout.clusterSize - 1)
        let (slot, first) = try changeableL2Slot(GuestOffset(start))
        let entry = cachedEntry(slot, first)
        let isOwn = entry.isCopied && entry.kind(layout) == .data
        if isOwn { try checkDataOffset(entry, guest: GuestOffset(start - inside)) }
        let available = l2Cache.sliceSize / layout.l2EntryBytes - first
        let wanted = min(layout.clusters(inside + guest.count), available)
        var count = 1
        while count < wanted {
            let next = cachedEntry(slot, first + count)
            guard (next.isCopied && next.kind(layout) == .data) == isOwn else { break }
            if isOwn, next.hostOffset != entry.hostOffset + count << layout.clusterBits { break }
            count += 1
        }
        if isOwn && !data.isExternal { try checkGuestClusters(entry.hostOffset, count: count) }
        let clusters = start - inside..<start - inside + count << layout.clusterBits
        let part = start..<min(guest.upperBound, clusters.upperBound)
        var isAllocated = isOwn
        for number in 0..<count {
            let next = cachedEntry(slot, first + number)
            let cluster = clusters.lowerBound + number << layout.clusterBits
            try checkBitmap(next, guest: cluster)
            let touched = layout.subclusterMask(part, inCluster: cluster)
            if next.allocatedSubclusters & touched != touched { isAllocated = false }
        }
        if isAllocated {
            return WriteGrant(inPlace: part, at: entry.hostOffset.bytes + inside, in: data.node)
        }
        let last = cachedEntry(slot, first + count - 1)
        return try allocateSubclusters(clusters, for: part, entry, last, isOwn: isOwn)
    }

    /// Allocates space for `used`, and sets what is to be completed: only the subclusters that `used`
    /// touches, but all allocated subclusters of a cluster that is shared or compressed.
    private func allocateSubclusters(
        _ clusters: Range<Int>, for used: Range<Int>, _ first: L2Entry, _ last: L2Entry, isOwn: Bool
    ) throws(BlockError) -> WriteGrant {
        let lastCluster = clusters.upperBound - layout.clusterSize
        let lower = completedStart(used.lowerBound, first, cluster: clusters.lowerBound, isOwn: isOwn)
        var upper = completedEnd(used.upperBound, last, cluster: lastCluster, isOwn: isOwn)
        if data.isExternal { upper = min(upper, max(used.upperBound, header.virtualSize)) }
        var grant = WriteGrant(
            new: used, units: lower..<upper, at: first.hostOffset.bytes, in: data.node, rest: .old,
            tag: isOwn ? Qcow2Space.reused : Qcow2Space.new)
        if lower >= used.lowerBound - used.lowerBound % layout.subclusterSize {
            grant.head = first.kind(ofSubcluster: layout.subcluster(used.lowerBound), layout).rest
        }
        if upper <= layout.roundedUpToSubcluster(used.upperBound) {
            grant.tail = last.kind(ofSubcluster: layout.subcluster(used.upperBound - 1), layout).rest
        }
        if data.isExternal {
            grant.hostOffset = clusters.lowerBound
        } else if !isOwn {
            try takeClusters(clusters.count >> layout.clusterBits, for: &grant)
        }
        grant.hostOffset += lower - clusters.lowerBound
        return grant
    }

    private func completedStart(_ offset: Int, _ entry: L2Entry, cluster: Int, isOwn: Bool) -> Int {
        let start = offset - offset % layout.subclusterSize
        if isOwn {
            return entry.kind(ofSubcluster: layout.subcluster(offset), layout) == .data ? offset : start
        }
        switch entry.kind(layout) {
        case .compressed: return cluster
        case .data where entry.allocatedSubclusters != 0:
            let first = entry.allocatedSubclusters.trailingZeroBitCount
            return min(start, cluster + first * layout.subclusterSize)
        default: return start
        }
    }

    private func completedEnd(_ offset: Int, _ entry: L2Entry, cluster: Int, isOwn: Bool) -> Int {
        let end = layout.roundedUpToSubcluster(offset)
        if isOwn {
            return entry.kind(ofSubcluster: layout.subcluster(offset - 1), layout) == .data ? offset : end
        }
        switch entry.kind(layout) {
        case .compressed: return cluster + layout.clusterSize
        case .data where entry.allocatedSubclusters != 0:
            let last = Qcow2.subclusters - entry.allocatedSubclusters.leadingZeroBitCount
            return max(end, cluster + last * layout.subclusterSize)
        default: return end
        }
    }

    /// As ``link(_:asZero:)``: filled subclusters become allocated, the others keep their kind.
    func linkSubclusters(_ grant: inout WriteGrant, asZero: Bool) throws(BlockError) {
        let units = grant.units
        try eachCluster(of: &grant) { guest, host, isReused throws(BlockError) in
            let old = try entry(at: guest)
            let filled = layout.subclusterMask(units, inCluster: guest.bytes)
            let zero = old.isCompressed ? 0 : old.zeroSubclusters
            let kept = isReused ? old.allocatedSubclusters : 0
            let new = L2Entry.data(at: host)
            try setEntry(
                at: guest,
                to: asZero
                    ? new.with(allocated: kept & ~filled, zero: zero | filled)
                    : new.with(allocated: kept | filled, zero: zero & ~filled))
            if !isReused { release(old) }
        }
        if hasTooManyFrees { try commit() }
    }

    /// Gives clusters a place; their subclusters stay unallocated or zero.
    func linkPlaces(_ grant: inout WriteGrant) throws(BlockError) {
        if grant.tag == Qcow2Space.reused { return }
        try eachCluster(of: &grant) { guest, host, _ throws(BlockError) in
            let old = try entry(at: guest)
            try setEntry(at: guest, to: L2Entry(raw: L2Entry.data(at: host).raw, bitmap: old.bitmap))
        }
    }
}
