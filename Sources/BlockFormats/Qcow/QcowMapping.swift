import BlockCore

/// The mapping: runs, grants, links and clearing.
extension QcowState {
    /// The use of a grant's space, stored as its tag.
    enum Purpose: Equatable {
        /// Plain clusters; `readsAsZero` if their guest bytes read as zeroes while unallocated.
        case data(readsAsZero: Bool)
        /// A compressed cluster of that many bytes, more than 0.
        case compressed(bytes: Int)

        init(tag: Int) { self = tag > 0 ? .compressed(bytes: tag) : .data(readsAsZero: tag < 0) }

        var tag: Int {
            switch self {
            case .data(let readsAsZero): readsAsZero ? -1 : 0
            case .compressed(let bytes): bytes
            }
        }
    }

    /// The number of clusters that `count` bytes touch, from `inside` bytes into the first one.
    func clusters(_ inside: Int, _ count: Int) -> Int { (inside + count - 1) >> header.clusterBits + 1 }

    func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let inside = offset & (header.clusterBytes - 1)
        let run = try clusterRun(at: offset, limit: clusters(inside, limit))
        let length = min(limit, run.count << header.clusterBits - inside)
        switch run.first {
        case .unallocated: return Extent(.unallocated, length: length)
        case .compressed: return Extent(.encoded(compressed: true), length: length)
        case .data(let host):
            return Extent(
                header.isEncrypted ? .encoded(compressed: false) : .data(hostOffset: host + inside),
                length: length)
        }
    }

    /// The run of clusters of one kind from that of a guest offset on; plain clusters of a run also follow
    /// each other in the file. At most `limit` clusters.
    func clusterRun(at guest: Int, limit: Int) throws(BlockError) -> (first: QcowEntry, count: Int) {
        guard let (slot, first, most) = try entries(at: guest, limit: limit) else {
            let inside = (guest % header.guestBytesPerTable) >> header.clusterBits
            return (.unallocated, min(limit, header.entriesPerTable - inside))
        }
        let raw = entry(slot, first)
        let flag = raw & QcowEntry.compressedFlag
        let step = raw == 0 || flag != 0 ? 0 : UInt64(header.clusterBytes)
        var count = 1
        while count < most {
            let next = entry(slot, first + count)
            guard flag != 0 ? next & flag != 0 : next == raw &+ step &* UInt64(count) else { break }
            count += 1
        }
        let kind = QcowEntry(raw, clusterBits: header.clusterBits)
        if case .data(let host) = kind { try checkPlace(host) }
        return (kind, count)
    }

    /// - Throws: `corrupt` for an offset at which no cluster can be. An offset behind the end of the file is
    ///   accepted: the node reports lost data.
    private func checkPlace(_ host: Int) throws(BlockError) {
        guard isClusterStart(host), host <= Self.longestFile else {
            throw corrupt("A data cluster is misplaced (offset \(host))", at: 0)
        }
    }

    // MARK: Writing

    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        let start = guest.lowerBound.roundedDown(to: header.clusterBytes)
        let inside = guest.lowerBound - start
        let run = try clusterRun(at: start, limit: clusters(inside, guest.count))
        let part = guest.lowerBound..<min(guest.upperBound, start + run.count << header.clusterBits)
        if case .data(let host) = run.first {
            try checkIsData(host..<host + run.count << header.clusterBits)
            return inPlace(part, at: host + inside)
        }
        // A partly written cluster gets a grant of its own, so that it is assembled in memory and encrypted
        // as a whole.
        let isWhole = inside == 0 && part.count >= header.clusterBytes
        let count = isWhole ? part.count >> header.clusterBits : 1
        return try newClusters(
            part, count: count, rest: run.first == .unallocated ? .below : .old, over: backingEnd)
    }

    private func inPlace(_ part: Range<Int>, at host: Int) -> WriteGrant {
        var grant = WriteGrant(inPlace: part, at: host, in: file)
        if header.isEncrypted { grant.form = .encrypted }
        return grant
    }

    /// Takes space for clusters whose entries are in one table.
    private func newClusters(
        _ guest: Range<Int>, count: Int, rest: WriteGrant.Rest, over backingEnd: Int
    ) throws(BlockError) -> WriteGrant {
        let start = guest.lowerBound.roundedDown(to: header.clusterBytes)
        let units = start..<start + count << header.clusterBits
        var grant = WriteGrant(
            new: guest.clamped(to: units), units: units, at: try allocate(count), in: file, rest: rest,
            tag: Purpose.data(readsAsZero: start >= backingEnd).tag)
        if header.isEncrypted { grant.form = .encrypted }
        try reserveEntries(for: grant)
        return grant
    }

    /// Reserves entries after the clusters were taken, so that a new table lies behind them.
    private func reserveEntries(for grant: WriteGrant) throws(BlockError) {
        do throws(BlockError) { try reserveEntries(at: grant.units.lowerBound) } catch {
            giveBack(grant)
            throw error
        }
    }

    /// Takes space for a compressed cluster.
    ///
    /// - Parameter bytes: its compressed size.
    func grantCompressed(_ unit: Range<Int>, bytes: Int) throws(BlockError) -> WriteGrant {
        let place = try allocateBytes(bytes)
        guard QcowEntry.compressed(place, clusterBits: header.clusterBits) != nil else {
            giveBack(place)
            throw BlockError(
                .noSpace, "The image file is too large for compressed clusters", path: file.filename)
        }
        let grant = WriteGrant(
            new: unit, units: unit, at: place.lowerBound, in: file, rest: .keep,
            tag: Purpose.compressed(bytes: bytes).tag)
        try reserveEntries(for: grant)
        return grant
    }

    func link(_ grant: inout WriteGrant) throws(BlockError) {
        hasUnflushedWrites = true
        guard grant.isNew else { return }
        let (host, bits) = (grant.hostOffset, header.clusterBits)
        let guest = grant.units.lowerBound
        switch Purpose(tag: grant.tag) {
        case .data:
            try setEntries(at: guest, count: grant.units.count >> bits) { UInt64(host + $0 << bits) }
        case .compressed(let bytes):
            let entry = QcowEntry.compressed(host..<host + bytes, clusterBits: bits)
            try setEntries(at: guest, count: 1) { _ in entry ?? 0 }
        }
    }

    func giveBack(_ grant: WriteGrant) {
        // An overwrite in place may be half written.
        hasUnflushedWrites = true
        guard grant.isNew else { return }
        switch Purpose(tag: grant.tag) {
        case .data(let readsAsZero):
            giveBack(grant.place, guest: readsAsZero ? grant.units.lowerBound : nil)
        case .compressed(let bytes): giveBack(grant.hostOffset..<grant.hostOffset + bytes)
        }
    }

    // MARK: Clearing

    /// Stored clusters become holes of the file. Unallocated clusters over the backing node get clusters that
    /// are holes: the format has no entry for zeroes. A discard leaves those alone, and encrypted clusters
    /// too: a hole would decrypt to noise.
    func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        let run = try clusterRun(at: range.lowerBound, limit: clusters(0, range.count))
        let end = min(range.upperBound, range.lowerBound + run.count << header.clusterBits)
        let part = range.lowerBound..<end
        let showsBacking = part.lowerBound < backingEnd
        switch run.first {
        case .data(let host):
            try checkIsData(host..<host + run.count << header.clusterBits)
            if mode == .discard, header.isEncrypted { return ClearStep(.done, length: part.count) }
            return ClearStep(.zero(inPlace(part, at: host)), length: part.count)
        case .unallocated where !showsBacking: return ClearStep(.done, length: part.count)
        case .compressed where !showsBacking:
            try setEntries(at: part.lowerBound, count: run.count) { _ in 0 }
            return ClearStep(.done, length: part.count)
        default:
            if mode == .discard { return ClearStep(.done, length: part.count) }
            let grant = try newClusters(part, count: run.count, rest: .zero, over: backingEnd)
            return ClearStep(.zero(grant), length: part.count)
        }
    }

    /// - Throws: `corrupt` when data at `range` would overlap metadata.
    private func checkIsData(_ range: Range<Int>) throws(BlockError) {
        guard isMetadata(range) else { return }
        throw corrupt("A data cluster lies over a table (offset \(range.lowerBound))", at: 0)
    }
}
