import BlockCore

/// The kinds of grants, as their tags.
enum Qcow2Space {
    /// Bytes that the guest's entry refers to already.
    static let inPlace = 0
    /// Clusters that no L2 entry refers to yet.
    static let new = 1
    /// Clusters that the guest's entries refer to already, but which read as zeroes or lack some subclusters.
    static let reused = 2
    /// Host bytes for one compressed cluster; the upper bits of the tag are their number.
    static let compressed = 3

    static func compressed(bytes: Int) -> Int { bytes << 2 | compressed }
}

extension Qcow2Driver {
    public func storeEncoded(
        _ bytes: RawSpan, for grant: WriteGrant, at guest: Int
    ) throws(BlockError) {
        try data.write(bytes, at: grant.hostOffset(of: guest), guest: guest)
    }
}

extension Qcow2State {
    /// Takes space for the first part of a write to `guest`.
    ///
    /// Its clusters must not be freed or reused before the data is written: until the grant is ended, the
    /// session makes operations on whole tables wait.
    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        var grant = layout.hasSubclusters ? try grantSubclusters(guest) : try grantClusters(guest)
        if data.encryption != nil { grant.form = .encrypted }
        return grant
    }

    /// As ``grant(_:over:)``, in whole clusters.
    private func grantClusters(_ guest: Range<Int>) throws(BlockError) -> WriteGrant {
        let start = guest.lowerBound
        let (slot, first) = try changeableL2Slot(GuestOffset(start))
        let buffer = l2Cache.bytes(of: slot)
        let slice = buffer.bytes
        let entry = L2Entry(raw: slice.bigEndian(at: first &* 8) ?? 0)
        let kind = entry.kind(layout)
        let inside = start & (layout.clusterSize - 1)
        let perSlice = l2Cache.sliceSize / 8
        let wanted = min(layout.clusters(inside + guest.count), perSlice - first)
        let isOwn = entry.isCopied && (kind == .data || kind == .zeroAllocated)
        if isOwn { try checkDataOffset(entry, guest: GuestOffset(start - inside)) }
        var count = 1
        while count < wanted {
            let next = L2Entry(raw: slice.bigEndian(at: (first &+ count) &* 8) ?? 0)
            let nextKind = next.kind(layout)
            let nextIsOwn = next.isCopied && (nextKind == .data || nextKind == .zeroAllocated)
            guard nextIsOwn == isOwn else { break }
            if isOwn {
                guard nextKind == kind, next.hostOffset == entry.hostOffset + count << layout.clusterBits
                else { break }
            }
            count += 1
        }
        if isOwn && !data.isExternal { try checkGuestClusters(entry.hostOffset, count: count) }
        let clusters = start - inside..<start - inside + count << layout.clusterBits
        let part = start..<min(guest.upperBound, clusters.upperBound)
        if isOwn && kind == .data {
            return WriteGrant(inPlace: part, at: entry.hostOffset.bytes + inside, in: data.node)
        }
        let last: UInt64 = slice.bigEndian(at: (first + count - 1) * 8) ?? 0
        let lastKind = L2Entry(raw: last).kind(layout)
        return try allocate(
            clusters, for: part, reusing: isOwn ? entry.hostOffset : nil, kinds: (kind, lastKind))
    }

    /// Allocates whole guest clusters, of which the write fills `used`.
    private func allocate(
        _ clusters: Range<Int>, for used: Range<Int>, reusing: HostOffset?,
        kinds: (L2Entry.Kind, L2Entry.Kind)
    ) throws(BlockError) -> WriteGrant {
        var grant = WriteGrant(
            new: used, units: clusters, at: reusing?.bytes ?? 0, in: data.node, rest: .old,
            tag: reusing == nil ? Qcow2Space.new : Qcow2Space.reused)
        grant.head = kinds.0.rest
        grant.tail = kinds.1.rest
        if data.isExternal {
            grant.hostOffset = clusters.lowerBound
            // The disk may end inside the last cluster; so does the data file.
            let end = max(used.upperBound, header.virtualSize)
            grant.units = clusters.lowerBound..<min(clusters.upperBound, end)
        } else if reusing == nil {
            try takeClusters(clusters.count >> layout.clusterBits, for: &grant)
        }
        return grant
    }

    /// Takes adjacent clusters for the grant's units.
    func takeClusters(_ count: Int, for grant: inout WriteGrant) throws(BlockError) {
        try beginLazyRefcounts()
        let store = try refcounts()
        let virgin = store.virginCluster
        let first = try store.allocate(count)
        grant.hostOffset = layout.offset(of: first).bytes
        grant.isVirgin = first >= virgin && data.isZeroInitialised
    }

    /// Points the L2 entries to clusters whose data is in the file, and releases what they pointed to.
    func link(_ grant: inout WriteGrant) throws(BlockError) {
        try link(&grant, asZero: false)
    }

    /// - Parameter asZero: the clusters keep their place, and read as zeroes whatever is there (version 3).
    func link(_ grant: inout WriteGrant, asZero: Bool) throws(BlockError) {
        hasUnflushedWrites = true
        guard grant.isNew else { return }
        if grant.tag & 3 == Qcow2Space.compressed { return try linkCompressed(&grant) }
        if layout.hasSubclusters { return try linkSubclusters(&grant, asZero: asZero) }
        try eachCluster(of: &grant) { guest, host, isReused throws(BlockError) in
            let (slot, entry) = try changeableL2Slot(guest)
            let old = L2Entry(raw: l2Cache.bigEndian64(slot, entry))
            l2Cache.setBigEndian64(
                slot, entry, to: L2Entry.data(at: host).raw | (asZero ? L2Entry.zeroFlag : 0))
            if !isReused { release(old) }
        }
        if hasTooManyFrees { try commit() }
    }

    /// Calls `body`, which links a cluster, for each cluster of a grant, and takes the cluster off the grant.
    func eachCluster(
        of grant: inout WriteGrant,
        _ body: (_ guest: GuestOffset, _ host: HostOffset, _ isReused: Bool) throws(BlockError) -> Void
    ) throws(BlockError) {
        hasUnflushedWrites = true
        let lead = grant.units.lowerBound - layout.roundedDown(grant.units.lowerBound)
        var guest = GuestOffset(grant.units.lowerBound - lead)
        var host = HostOffset(grant.hostOffset - lead)
        while guest.bytes < grant.units.upperBound {
            try body(guest, host, grant.tag == Qcow2Space.reused)
            guest += layout.clusterSize
            host += layout.clusterSize
            grant.units = min(guest.bytes, grant.units.upperBound)..<grant.units.upperBound
            grant.hostOffset = host.bytes
        }
    }

    /// The slot and number of a guest cluster's entry, in a table that no snapshot shares and that has its
    /// space in the file.
    func changeableL2Slot(_ guest: GuestOffset) throws(BlockError) -> (slot: Int, entry: Int) {
        let found = try l2Slot(table: try writableL2Table(guest), index: layout.l2Index(of: guest))
        try l2Cache.reserve(found.slot)
        return found
    }

    /// Frees the clusters of a grant, to which no entry ever referred.
    func giveBack(_ grant: WriteGrant) {
        hasUnflushedWrites = true
        if grant.tag & 3 == Qcow2Space.compressed { return giveBackCompressed(grant) }
        guard grant.tag == Qcow2Space.new, !grant.units.isEmpty, !data.isExternal,
            let store = try? refcounts()
        else { return }
        let first = layout.cluster(at: HostOffset(grant.hostOffset))
        store.giveBack(first..<layout.endCluster(ofFile: grant.place.upperBound))
    }
}

extension L2Entry.Kind {
    /// How a write completes a cluster of this kind around its new bytes.
    var rest: WriteGrant.Rest {
        switch self {
        case .zeroPlain, .zeroAllocated: .zero
        case .unallocated: .below
        case .data, .compressed: .old
        }
    }
}
