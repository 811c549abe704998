import BlockCore

extension Qcow2Driver {
    /// Makes subclusters read as zeroes by their bits. A cluster without allocated subclusters loses its
    /// place. A part of a compressed cluster has no bits: the step ends before it, or stores zeroes in it.
    ///
    /// - Parameters:
    ///   - range: whole subclusters; only the last one may end with the disk.
    ///   - mayUnmap: whether clusters may lose their place in the file.
    func clearSubclusters(_ range: Range<Int>, mayUnmap: Bool) throws(BlockError) -> ClearStep {
        let discards = passesGuestDiscards && mayUnmap
        var done = range.lowerBound
        var part = range.lowerBound..<range.lowerBound
        var given: [Range<Int>] = []
        var kept: [Range<Int>] = []
        let request = try metadata.begin(range) { tables throws(BlockError) -> WriteGrant in
            let unmaps = mayUnmap && !tables.keepsDiscarded
            while done < range.upperBound {
                let cluster = layout.roundedDown(done)
                part = done..<min(range.upperBound, cluster + layout.clusterSize)
                var mask = layout.subclusterMask(part, inCluster: cluster)
                // Subclusters behind the end of the disk become zero too.
                if part.upperBound >= virtualSize { mask |= ~(mask | (mask &- 1)) }
                let old = try tables.entry(at: GuestOffset(cluster))
                if old.isCompressed && mask != .max { break }
                done = part.upperBound
                let new = old.zeroed(mask, mayUnmap: unmaps)
                if new == old { continue }
                try tables.beginLazyRefcounts()
                try tables.setEntry(at: GuestOffset(cluster), to: new)
                if new.raw == 0 { tables.release(old, discards: discards) }
                if data.isExternal && old.raw != 0 && !tables.keepsDiscarded { given.add(part) }
                if mayUnmap && !unmaps && mask == .max && new.raw != 0 { kept.add(new.hostRange(layout)) }
                if tables.hasTooManyFrees { try tables.commit() }
            }
            return WriteGrant(inPlace: range, at: 0, in: file)
        }
        defer { metadata.end(request) { _ in } }
        if discards {
            given.forEach(giveBack)
            try emptyKept(kept)
        }
        let length = done - range.lowerBound
        return length > 0 ? ClearStep(.done, length: length) : ClearStep(.store, length: part.count)
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
