import BlockCore

/// Zeroes and discards. Changing L2 entries is enough for them: many clusters at a time under the lock, and
/// the file's space is given back after it. So this format clears by itself, without the node's engine.
extension Qcow2Driver {
    public var zeroGranularity: Int { layout.subclusterSize }
    public var discardGranularity: Int { layout.subclusterSize }
    /// Version 2 has no zero flag.
    public var marksZeroes: Bool { layout.version >= 3 }

    public func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        let mayUnmap = mode != .zero(keepsSpace: true)
        // Version 2 has no zero flag: an unallocated cluster reads as zeroes only without a backing file.
        if layout.version < 3 && (range.lowerBound < backingEnd || !mayUnmap) {
            return ClearStep(.store, length: range.count)
        }
        try clearRawData(range, flags: mode.flags)
        guard layout.hasSubclusters else {
            // A backing file, present or future, must not show through where the guest has discarded.
            try eachCluster(range, mayUnmap: mayUnmap)
            return ClearStep(.done, length: range.count)
        }
        return try clearSubclusters(range, mayUnmap: mayUnmap)
    }

    /// Clears in the data file itself: a raw data file must read as the disk without any entry.
    private func clearRawData(_ range: Range<Int>, flags: ZeroFlags) throws(BlockError) {
        guard data.isExternal, metadata.withLock({ $0.header.keepsDataFileRaw }) else { return }
        try data.writeZeroes(
            at: range.lowerBound, count: range.count, guest: range.lowerBound, flags: flags)
    }

    /// The entry that makes a cluster read as zeroes; `nil` when it does so already.
    private static func zeroed(_ entry: L2Entry, _ layout: Qcow2Layout, mayUnmap: Bool) -> L2Entry? {
        let kind = entry.kind(layout)
        if layout.version < 3 { return kind == .unallocated ? nil : .unallocated }
        switch kind {
        case .unallocated, .compressed: return .zeroPlain
        case .zeroPlain: return nil
        case .zeroAllocated: return mayUnmap ? .zeroPlain : nil
        case .data:
            let keeps = !mayUnmap && entry.isCopied
            return keeps ? L2Entry(raw: entry.raw | L2Entry.zeroFlag) : .zeroPlain
        }
    }

    /// Makes the entries of a range of clusters read as zeroes, and releases the clusters to which they no
    /// longer refer.
    ///
    /// The space in a data file is given back at once: a hole there reads as the zeroes that the guest asked
    /// for.
    private func eachCluster(_ range: Range<Int>, mayUnmap: Bool) throws(BlockError) {
        let discards = passesGuestDiscards
        var given: [Range<Int>] = []
        var kept: [Range<Int>] = []
        let request = try metadata.begin(range) { tables throws(BlockError) -> WriteGrant in
            let unmaps = mayUnmap && !tables.keepsDiscarded
            var guest = range.lowerBound
            while guest < range.upperBound {
                if layout.version < 3, try tables.l2TableOffset(GuestOffset(guest)) == nil {
                    let run = tables.unmappedRun(GuestOffset(guest), limit: range.upperBound - guest)
                    guest = run >= range.upperBound - guest ? range.upperBound : guest + run
                    continue
                }
                let old = try tables.entry(at: GuestOffset(guest))
                if let new = Self.zeroed(old, layout, mayUnmap: unmaps) {
                    try tables.beginLazyRefcounts()
                    try tables.setEntry(at: GuestOffset(guest), to: new)
                    if new.hostOffset == .zero { tables.release(old, discards: discards) }
                    if data.isExternal, !new.isCopied { given.add(guest..<guest + layout.clusterSize) }
                    if mayUnmap, new.isCopied { kept.add(new.hostRange(layout)) }
                    if tables.hasTooManyFrees { try tables.commit() }
                }
                guest += layout.clusterSize
            }
            return WriteGrant(inPlace: range, at: 0, in: file)
        }
        defer { metadata.end(request) { _ in } }
        guard discards else { return }
        given.forEach(giveBack)
        try emptyKept(kept)
    }

    /// Discards the bytes of clusters that stay allocated and read as zeroes, while the request is in flight.
    ///
    /// Where a hole does not read as zeroes, the entries with the zero flag are durable first.
    func emptyKept(_ ranges: [Range<Int>]) throws(BlockError) {
        if ranges.isEmpty { return }
        if !data.isZeroInitialised { try metadata.flush() }
        let end = data.isExternal ? virtualSize : Int.max
        for range in ranges where range.lowerBound < end {
            try? data.discard(at: range.lowerBound, count: min(range.upperBound, end) - range.lowerBound)
        }
    }

    /// Gives back the space of a guest range in the data file.
    func giveBack(_ range: Range<Int>) {
        let end = min(range.upperBound, virtualSize)
        // While an entry still refers to it, a hole in an encrypted file would decrypt to noise.
        guard data.encryption == nil, end > range.lowerBound else { return }
        try? data.discard(at: range.lowerBound, count: end - range.lowerBound)
    }
}

extension L2Entry {
    /// The cluster of plain data that the entry refers to.
    func hostRange(_ layout: Qcow2Layout) -> Range<Int> {
        hostOffset.bytes..<hostOffset.bytes + layout.clusterSize
    }
}

extension Array {
    /// Adds a range, and joins it to the last one if they are adjacent.
    mutating func add<Bound>(_ range: Range<Bound>) where Element == Range<Bound> {
        if let end = last?.upperBound, end == range.lowerBound {
            self[count - 1] = self[count - 1].lowerBound..<range.upperBound
        } else {
            append(range)
        }
    }
}
