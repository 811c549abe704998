import BlockCore

extension Qcow2Driver: ZeroWriting, Discarding {
    public var zeroGranularity: Int { layout.clusterSize }
    public var discardGranularity: Int { layout.clusterSize }

    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        let range = offset..<offset + count
        let hasBacking = old.hasBacking(in: range)
        // Version 2 cannot say "zero": only "not here", which is zero when nothing is below.
        if layout.version < 3 && (hasBacking || !mayUnmap) { return false }
        try eachCluster(range, skippingUnmapped: !hasBacking) { entry in
            Self.zeroed(entry, version: self.layout.version, mayUnmap: mayUnmap, hasBacking: hasBacking)
        }
        return true
    }

    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        let range = offset..<offset + count
        let hasBacking = old.hasBacking(in: range)
        if layout.version < 3 && hasBacking { return }
        // What is below must not show through where the guest has discarded.
        try eachCluster(range, skippingUnmapped: !hasBacking) { entry in
            switch entry.kind(version: self.layout.version) {
            case .unallocated: hasBacking ? .zeroPlain : nil
            case .zeroPlain: nil
            case .data, .zeroAllocated, .compressed:
                self.layout.version < 3 ? .unallocated : .zeroPlain
            }
        }
    }

    /// What an entry becomes when its cluster is to read as zeroes; `nil` when it stays.
    private static func zeroed(
        _ entry: L2Entry, version: Int, mayUnmap: Bool, hasBacking: Bool
    ) -> L2Entry? {
        let kind = entry.kind(version: version)
        switch kind {
        case .unallocated: return hasBacking ? .zeroPlain : nil
        case .zeroPlain: return nil
        case .zeroAllocated: return mayUnmap ? .zeroPlain : nil
        case .compressed: return version < 3 ? .unallocated : .zeroPlain
        case .data:
            if version < 3 { return .unallocated }
            let keeps = !mayUnmap && entry.isCopied
            return keeps ? L2Entry(raw: entry.raw | L2Entry.zeroFlag) : .zeroPlain
        }
    }

    /// Replaces the entries of a range of clusters; what they no longer refer to is released.
    private func eachCluster(
        _ range: Range<Int>, skippingUnmapped: Bool, _ change: (L2Entry) -> L2Entry?
    ) throws(BlockError) {
        let discards = discardUnmaps
        try metadata.withLock { tables throws(BlockError) in
            var guest = range.lowerBound
            while guest < range.upperBound {
                if skippingUnmapped, try tables.l2TableOffset(guest) == nil {
                    let run = tables.unmappedRun(guest, limit: range.upperBound - guest)
                    guest = run >= range.upperBound - guest ? range.upperBound : guest + run
                    continue
                }
                let old = try tables.entry(at: guest)
                if let new = change(old) {
                    try tables.beginLazyRefcounts()
                    try tables.setEntry(at: guest, to: new)
                    if new.hostOffset == 0 { tables.release(old, discards: discards) }
                    if tables.hasTooManyFrees { try tables.commit() }
                }
                guest += layout.clusterSize
            }
        }
    }
}
