import BlockCore

/// What becomes of an L2 entry that cannot stay as it is.
extension Qcow2CheckScope {
    /// What becomes of an L2 entry that cannot stay as it is; `nil` for one that can.
    ///
    /// - Parameter guest: the guest offset that the entry maps.
    func repaired(_ entry: L2Entry, guest: Int) -> (entry: L2Entry, isLoss: Bool)? {
        if entry == .unallocated { return nil }
        if entry.isCompressed { return repairedCompressed(entry, guest: guest) }
        let sound = L2Entry(raw: entry.raw & knownBits, bitmap: entry.bitmap)
        let kind = sound.kind(layout)
        let host = sound.hostOffset
        guard kind == .data || kind == .zeroAllocated else {
            return sound == entry ? nil : (sound, false)
        }
        if tables.data.isExternal {
            if host.bytes != guest { return placedInDataFile(sound, guest: guest) }
        } else if !layout.isAligned(host) {
            return withoutPlace(sound, kind)
        } else if layout.cluster(at: host).index >= fileClusters {
            // It reads as zeroes; in version 2, nothing but a cluster can say that over a backing file.
            if layout.version < 3, tables.header.backing != nil { return nil }
            return withoutPlace(sound, kind)
        }
        return sound == entry ? nil : (sound, false)
    }

    private func repairedCompressed(_ entry: L2Entry, guest: Int) -> (entry: L2Entry, isLoss: Bool)? {
        if tables.data.isExternal { return placedInDataFile(entry, guest: guest) }
        let range = entry.compressedRange(layout)
        let end = layout.offset(of: HostCluster(fileClusters))
        guard range.lowerBound < end else { return withoutPlace(entry, .compressed) }
        var raw = entry.raw & ~L2Entry.copiedFlag
        // Behind the end there is nothing to read: the size was counted in too many sectors.
        if range.upperBound > end,
            let cut = L2Entry.compressed(at: range.lowerBound, size: end - range.lowerBound, layout)
        {
            raw = cut.raw
        }
        return raw == entry.raw ? nil : (L2Entry(raw: raw, bitmap: entry.bitmap), false)
    }

    /// In a data file, what is the guest's own can only be in one place.
    private func placedInDataFile(_ entry: L2Entry, guest: Int) -> (entry: L2Entry, isLoss: Bool) {
        let isInside = guest >= 0 && guest < tables.header.virtualSize
        let fits = UInt64(truncatingIfNeeded: guest) & ~L2Entry.offsetMask == 0
        let isCertain = tables.header.keepsDataFileRaw || (!entry.isCompressed && entry.isCopied)
        guard isInside else { return (.unallocated, false) }
        guard fits, isCertain else { return withoutPlace(entry, entry.kind(layout)) }
        let flag = entry.isCompressed ? 0 : entry.raw & knownBits & L2Entry.zeroFlag
        let bitmap = entry.isCompressed && layout.hasSubclusters ? UInt64(UInt32.max) : entry.bitmap
        return (L2Entry(raw: UInt64(guest) | L2Entry.copiedFlag | flag, bitmap: bitmap), false)
    }

    /// The entry with zeroes for what it says is in a place that it cannot be in.
    private func withoutPlace(_ entry: L2Entry, _ kind: L2Entry.Kind) -> (entry: L2Entry, isLoss: Bool) {
        if layout.hasSubclusters {
            let had = kind == .compressed ? UInt32.max : entry.allocatedSubclusters
            let repaired = L2Entry(raw: 0).with(allocated: 0, zero: had | entry.zeroSubclusters)
            return (repaired, had != 0)
        }
        let isLoss = kind != .zeroAllocated
        return (layout.version >= 3 ? .zeroPlain : .unallocated, isLoss)
    }
}

extension L2Entry {
    /// The clusters that the entry says are its own, wherever they may be.
    func hostClusters(_ layout: Qcow2Layout) -> Range<HostCluster> {
        if isCompressed { return compressedClusters(layout) }
        let cluster = layout.cluster(at: hostOffset)
        return cluster..<(hostOffset == .zero ? cluster : cluster + 1)
    }
}
