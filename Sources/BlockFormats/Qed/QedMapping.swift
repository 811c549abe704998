import BlockCore

/// The mapping: runs, grants, links and clearing.
extension QedState {
    /// The tag of a grant: whether its guest bytes read as zeroes while unallocated.
    private enum Tag {
        static let showsBacking = 0
        static let readsAsZero = 1
    }

    func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let unit = header.clusterBytes
        let inside = offset % unit
        let wanted = (inside + limit).dividedRoundingUp(by: unit)
        guard let (slot, first, most) = try entries(at: offset, limit: wanted) else {
            let rest = header.guestBytesPerTable - offset % header.guestBytesPerTable
            return Extent(.unallocated, length: min(limit, rest))
        }
        let entry = entry(slot, first)
        let step = entry > Qed.zeroCluster ? UInt64(unit) : 0
        var count = 1
        while count < most, self.entry(slot, first + count) == entry &+ step &* UInt64(count) { count += 1 }
        let length = min(limit, count * unit - inside)
        switch entry {
        case 0: return Extent(.unallocated, length: length)
        case Qed.zeroCluster: return Extent(.zero(hostOffset: nil), length: length)
        default: return Extent(.data(hostOffset: try statedOffset(entry) + inside), length: length)
        }
    }

    // MARK: Writing

    /// The first clusters of a write: all unallocated, or all adjacent in the file.
    private struct FirstClusters {
        var count: Int
        /// The L2 entries of the first and the last of them.
        var head: UInt64
        var tail: UInt64

        var isNew: Bool { head <= Qed.zeroCluster }
    }

    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        let unit = header.clusterBytes
        let start = guest.lowerBound.roundedDown(to: unit)
        let met = try firstClusters(at: start, limit: (guest.upperBound - start).dividedRoundingUp(by: unit))
        let units = start..<start + met.count * unit
        let part = guest.clamped(to: units)
        guard met.isNew else {
            let host = try dataOffset(met.head)
            try checkIsData(host..<host + units.count)
            return WriteGrant(inPlace: part, at: host + part.lowerBound - start, in: file)
        }
        var grant = WriteGrant(
            new: part, units: units, at: try allocate(met.count), in: file, rest: .below,
            tag: start < backingEnd ? Tag.showsBacking : Tag.readsAsZero)
        // Reserved after the clusters, so that a new table lies behind them.
        do throws(BlockError) { try reserveEntries(at: start) } catch {
            giveBack(grant)
            throw error
        }
        if met.head == Qed.zeroCluster { grant.head = .zero }
        if met.tail == Qed.zeroCluster { grant.tail = .zero }
        return grant
    }

    /// The first of `limit` clusters from `start` on that one grant can cover: entries of one slice.
    private func firstClusters(at start: Int, limit: Int) throws(BlockError) -> FirstClusters {
        let found = try entries(at: start, limit: limit)
        // A new table is all zeroes; its entries are in slices like those of any table.
        let most = found?.count ?? min(limit, clustersInSlice(from: start))
        func entry(_ index: Int) -> UInt64 { found.map { self.entry($0.slot, $0.first + index) } ?? 0 }
        var met = FirstClusters(count: 1, head: entry(0), tail: entry(0))
        while met.count < most {
            let next = entry(met.count)
            let isNext =
                met.isNew
                ? next <= Qed.zeroCluster : next == met.head &+ UInt64(met.count * header.clusterBytes)
            guard isNext else { break }
            met.tail = next
            met.count += 1
        }
        return met
    }

    /// The number of clusters from that at `guest` on whose entries are in the same slice.
    private func clustersInSlice(from guest: Int) -> Int {
        let perSlice = header.sliceBytes / 8
        return perSlice - guest / header.clusterBytes % perSlice
    }

    func link(_ grant: inout WriteGrant) throws(BlockError) {
        hasUnflushedWrites = true
        guard grant.isNew else { return }
        let (host, unit) = (grant.hostOffset, header.clusterBytes)
        try setEntries(at: grant.units.lowerBound, count: grant.units.count / unit) { index in
            UInt64(host + index * unit)
        }
    }

    func giveBack(_ grant: WriteGrant) {
        // An overwrite in place may be half written.
        hasUnflushedWrites = true
        guard grant.isNew else { return }
        giveBack(
            grant.hostOffset, grant.units.count / header.clusterBytes,
            guest: grant.tag == Tag.readsAsZero ? grant.units.lowerBound : nil)
    }

    // MARK: Clearing

    /// Stored clusters become holes of the file; unallocated ones get the zero entry, which hides any backing
    /// file, also a later one.
    func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        let extent = try run(at: range.lowerBound, limit: range.count)
        let part = range.lowerBound..<range.lowerBound + extent.length
        switch extent.status {
        case .data(let host):
            try checkIsData(host..<host + part.count)
            return ClearStep(.zero(WriteGrant(inPlace: part, at: host, in: file)), length: part.count)
        case .unallocated:
            let unit = header.clusterBytes
            let count = min(part.count.dividedRoundingUp(by: unit), clustersInSlice(from: part.lowerBound))
            try setEntries(at: part.lowerBound, count: count) { _ in Qed.zeroCluster }
            return ClearStep(.done, length: min(part.count, count * unit))
        default: return ClearStep(.done, length: part.count)
        }
    }

    /// - Throws: `corrupt` when data at `host` would overlap the header or a table.
    private func checkIsData(_ host: Range<Int>) throws(BlockError) {
        guard isMetadata(host) else { return }
        throw corrupt("A data cluster lies over a table (offset \(host.lowerBound))", at: 0)
    }
}
