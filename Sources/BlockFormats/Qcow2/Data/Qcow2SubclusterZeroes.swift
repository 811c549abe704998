import BlockCore

extension Qcow2Driver {
    /// Makes subclusters read as zeroes by their bits. A cluster of which nothing is allocated any more goes.
    ///
    /// - Parameters:
    ///   - range: whole subclusters, but for the end of the disk.
    ///   - mayUnmap: whether clusters may lose their place in the file.
    /// - Returns: parts of compressed clusters, which no bit can tell of.
    func zeroSubclusters(
        _ range: Range<Int>, mayUnmap: Bool
    ) throws(BlockError) -> [Range<Int>] {
        let discards = passesGuestDiscards && mayUnmap
        var unchanged: [Range<Int>] = []
        var given: [Range<Int>] = []
        var kept: [Range<Int>] = []
        try metadata.withLock { tables throws(BlockError) in
            let unmaps = mayUnmap && !tables.keepsDiscarded
            var guest = range.lowerBound
            while guest < range.upperBound {
                let cluster = layout.roundedDown(guest)
                let part = guest..<min(range.upperBound, cluster + layout.clusterSize)
                guest = part.upperBound
                var mask = layout.subclusterMask(part, inCluster: cluster)
                // Behind the end of the disk there is nothing to keep.
                if part.upperBound >= virtualSize { mask |= ~(mask | (mask &- 1)) }
                let old = try tables.entry(at: cluster)
                if old.isCompressed && mask != .max {
                    unchanged.append(part)
                    continue
                }
                let new = old.zeroed(mask, mayUnmap: unmaps)
                if new == old { continue }
                try tables.beginLazyRefcounts()
                try tables.setEntry(at: cluster, to: new)
                if new.raw == 0 { tables.release(old, discards: discards) }
                if data.isExternal && old.raw != 0 && !tables.keepsDiscarded { given.add(part) }
                if mayUnmap && !unmaps && mask == .max && new.raw != 0 { kept.add(new.hostRange(layout)) }
                if tables.hasTooManyFrees { try tables.commit() }
            }
            if !discards { kept = [] }
            if !kept.isEmpty { tables.writesInFlight += 1 }
        }
        if discards { given.forEach(giveBack) }
        try emptyKept(kept)
        return unchanged
    }
}

extension L2Entry {
    /// The entry after the subclusters of `mask` were made to read as zeroes.
    fileprivate func zeroed(_ mask: UInt32, mayUnmap: Bool) -> L2Entry {
        if isCompressed { return L2Entry(raw: 0).with(allocated: 0, zero: .max) }
        if allocatedSubclusters & mask == 0 && zeroSubclusters & mask == mask && !(mayUnmap && raw != 0) {
            return self
        }
        let allocated = allocatedSubclusters & ~mask
        let place = allocated == 0 && (mayUnmap || !isCopied) ? 0 : raw
        return L2Entry(raw: place).with(allocated: allocated, zero: zeroSubclusters | mask)
    }
}
