import BlockCore

extension QedDriver {
    /// Where a part of a write goes.
    private struct Plan {
        var guest: Range<Int>
        /// The host offset of `clusters.lowerBound`.
        var hostOffset: Int
        /// The whole clusters around `guest`.
        var clusters: Range<Int>
        var isNew: Bool
        /// What the first and the last of the clusters were.
        var headEntry: UInt64
        var tailEntry: UInt64
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let plan = try tables.withLock { (tables) throws(BlockError) -> Plan in
                let plan = try Self.plan(offset + done..<offset + bytes.byteCount, tables)
                tables.writesInFlight += 1
                return plan
            }
            let part = bytes.extracting(done..<done + plan.guest.count)
            if plan.isNew { try fill(plan, part, old) } else { try overwrite(plan, part) }
            done += plan.guest.count
        }
    }

    private static func plan(_ guest: Range<Int>, _ tables: QedTables) throws(BlockError) -> Plan {
        let cluster = tables.header.clusterBytes
        let start = guest.lowerBound.roundedDown(to: cluster)
        let wanted = (guest.upperBound - start - 1) / cluster + 1
        let found = try tables.entries(at: start, limit: wanted)
        // Without a table, entries up to the end of its first slices are as good as there.
        let perSlice = tables.header.sliceBytes / 8
        let most = found?.count ?? min(wanted, perSlice - start / cluster % perSlice)
        func entry(_ index: Int) -> UInt64 { found.map { tables.entry($0.slot, $0.first + index) } ?? 0 }
        let first = entry(0)
        let isNew = first <= Qed.zeroCluster
        var count = 1
        while count < most {
            let next = entry(count)
            guard isNew ? next <= Qed.zeroCluster : next == first &+ UInt64(count * cluster) else { break }
            count += 1
        }
        let clusters = start..<start + count * cluster
        var plan = Plan(
            guest: guest.lowerBound..<min(guest.upperBound, clusters.upperBound), hostOffset: 0,
            clusters: clusters, isNew: isNew, headEntry: first, tailEntry: entry(count - 1))
        plan.hostOffset = isNew ? try tables.allocate(count) : try tables.dataOffset(first)
        let host = plan.hostOffset..<plan.hostOffset + count * cluster
        guard isNew || !tables.isMetadata(host) else {
            throw tables.corrupt("A data cluster lies over a table (offset \(host.lowerBound))", at: start)
        }
        return plan
    }

    private func overwrite(_ plan: Plan, _ bytes: RawSpan) throws(BlockError) {
        defer { finishWrite { $0.hasUnflushedWrites = true } }
        try file.write(bytes, at: plan.hostOffset + plan.guest.lowerBound - plan.clusters.lowerBound)
    }

    /// Fills new clusters with the new bytes and what the guest saw around them, then links them.
    private func fill(_ plan: Plan, _ bytes: RawSpan, _ old: any GuestReader) throws(BlockError) {
        let base = plan.hostOffset - plan.clusters.lowerBound
        let count = plan.clusters.count / clusterBytes
        do throws(BlockError) {
            try complete(plan.guest.upperBound..<plan.clusters.upperBound, plan.tailEntry, base, old)
            try complete(plan.clusters.lowerBound..<plan.guest.lowerBound, plan.headEntry, base, old)
            try file.write(bytes, at: base + plan.guest.lowerBound)
        } catch {
            finishWrite { giveBack(plan, $0, old) }
            throw error
        }
        var failure: BlockError?
        finishWrite { tables in
            do throws(BlockError) {
                tables.hasUnflushedWrites = true
                try tables.setEntries(at: plan.clusters.lowerBound, count: count) { index in
                    UInt64(plan.hostOffset + index * clusterBytes)
                }
            } catch {
                giveBack(plan, tables, old)
                failure = error
            }
        }
        if let failure { throw failure }
    }

    private func giveBack(_ plan: Plan, _ tables: QedTables, _ old: any GuestReader) {
        let guest = old.hasBacking(in: plan.clusters) ? nil : plan.clusters.lowerBound
        tables.giveBack(plan.hostOffset, plan.clusters.count / clusterBytes, guest: guest)
    }

    private func finishWrite(_ body: (QedTables) -> Void) {
        tables.withLock { tables in
            body(tables)
            tables.writesInFlight -= 1
        }
        tables.notifyAll()
    }

    /// Puts into a new cluster what the guest saw in `range`. `base` leads from guest to host offsets.
    private func complete(
        _ range: Range<Int>, _ entry: UInt64, _ base: Int, _ old: any GuestReader
    ) throws(BlockError) {
        let isZero = entry == Qed.zeroCluster || !old.hasBacking(in: range)
        try file.fill(at: base + range.lowerBound, withOld: range, isZero: isZero, old)
    }
}

extension QedDriver: ZeroWriting, Discarding {
    public var zeroGranularity: Int { clusterBytes }
    public var discardGranularity: Int { clusterBytes }

    public var marksZeroes: Bool { true }

    /// What is stored becomes a hole of the file; what is not gets a mark, so that no backing file shows
    /// through, now or later.
    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        try clear(offset..<offset + count, mayUnmap)
        return true
    }

    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        try clear(offset..<offset + count, true)
    }

    private func clear(_ range: Range<Int>, _ mayUnmap: Bool) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let here = try extent(at: offset, limit: range.upperBound - offset)
            switch here.status {
            case .data(let host):
                try checkIsData(host..<host + here.length)
                try file.writeZeroes(at: host, count: here.length, flags: mayUnmap ? .mayUnmap : [])
            case .unallocated: try mark(offset..<offset + here.length)
            default: break
            }
            offset += here.length
        }
    }

    private func checkIsData(_ host: Range<Int>) throws(BlockError) {
        try tables.withLock { (tables) throws(BlockError) in
            if tables.isMetadata(host) {
                throw tables.corrupt("A data cluster lies over a table (offset \(host.lowerBound))", at: 0)
            }
            tables.hasUnflushedWrites = true
        }
    }

    /// Says of whole clusters that they read as zeroes.
    private func mark(_ range: Range<Int>) throws(BlockError) {
        let perSlice = try tables.withLock { (tables) throws(BlockError) in tables.header.sliceBytes / 8 }
        var cluster = range.lowerBound / clusterBytes
        let end = (range.upperBound - 1) / clusterBytes + 1
        while cluster < end {
            let count = min(end - cluster, perSlice - cluster % perSlice)
            try tables.withLock { (tables) throws(BlockError) in
                try tables.setEntries(at: cluster * clusterBytes, count: count) { _ in Qed.zeroCluster }
            }
            cluster += count
        }
    }
}
