import BlockCore

/// The mapping: runs, grants, links and clearing.
extension ParallelsState {
    func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let block = offset / layout.clusterBytes
        let inside = offset % layout.clusterBytes
        guard block < table.count else { return Extent(.unallocated, length: limit) }
        let count = runLength(at: block, atMost: (inside + limit).dividedRoundingUp(by: layout.clusterBytes))
        let length = min(limit, count * layout.clusterBytes - inside)
        let entry = table[block]
        if entry == Parallels.unallocated { return Extent(.unallocated, length: length) }
        return Extent(.data(hostOffset: layout.hostOffset(entry) + inside), length: length)
    }

    /// The number of blocks from `first` on that are all unallocated, or adjacent in the file.
    private func runLength(at first: Int, atMost most: Int) -> Int {
        let entry = table[first]
        let step = entry == Parallels.unallocated ? 0 : UInt32(layout.clusterBytes / layout.entryUnit)
        let end = first + min(most, table.count - first)
        var expected = entry
        var block = first + 1
        while block < end {
            expected &+= step
            guard table[block] == expected, expected != Parallels.unallocated || step == 0 else { break }
            block += 1
        }
        return block - first
    }

    // MARK: Writing

    /// Prepares the image for a change of the guest's bytes.
    ///
    /// - Throws: `corrupt` for an image that was opened for a check; the errors of ``beginChanges()``.
    mutating func beginGuestChange() throws(BlockError) {
        guard isSound else {
            throw BlockError(.corrupt, "The image was opened to be checked, not to be written to")
        }
        try beginChanges()
    }

    mutating func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        try beginGuestChange()
        let block = guest.lowerBound / layout.clusterBytes
        guard block < table.count else {
            throw BlockError(.corrupt, "The disk ends before \(guest.lowerBound)")
        }
        let extent = try run(at: guest.lowerBound, limit: guest.count)
        let part = guest.lowerBound..<guest.lowerBound + extent.length
        if case .data(let host) = extent.status { return WriteGrant(inPlace: part, at: host, in: file) }
        let blocks = block..<part.upperBound.dividedRoundingUp(by: layout.clusterBytes)
        for block in blocks { try table.reserve(block, in: file) }
        let clusters = try takeClusters(atMost: blocks.count)
        let start = block * layout.clusterBytes
        let units = start..<start + clusters.count * layout.clusterBytes
        return WriteGrant(
            new: part.clamped(to: units), units: units,
            at: layout.hostOffset(ofCluster: clusters.lowerBound), in: file, rest: .below)
    }

    mutating func link(_ grant: inout WriteGrant) throws(BlockError) {
        guard grant.isNew else { return }
        try link(grant.units.lowerBound / layout.clusterBytes, to: clusters(of: grant))
    }

    mutating func giveBack(_ grant: WriteGrant) {
        if grant.isNew { space.release(clusters(of: grant)) }
    }

    private func clusters(of grant: WriteGrant) -> Range<Int> {
        let first = layout.cluster(ofHostOffset: grant.hostOffset)
        return first..<first + grant.units.count / layout.clusterBytes
    }

    // MARK: Clearing

    /// Clusters that may be given back lose their entries, others become holes of the file. The format has no
    /// zero entry: over a backing node, clusters without an entry would show that node's bytes, so zeroes are
    /// stored.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        if range.lowerBound < backingEnd {
            let hidden = backingEnd.roundedUp(to: layout.clusterBytes) ?? Int.max
            return ClearStep(.store, length: min(range.upperBound, hidden) - range.lowerBound)
        }
        let extent = try run(at: range.lowerBound, limit: range.count)
        guard case .data(let host) = extent.status else { return ClearStep(.done, length: extent.length) }
        try beginGuestChange()
        let part = range.lowerBound..<range.lowerBound + extent.length
        if mode == .zero(keepsSpace: true) {
            return ClearStep(.zero(WriteGrant(inPlace: part, at: host, in: file)), length: part.count)
        }
        let end = part.upperBound.dividedRoundingUp(by: layout.clusterBytes)
        for block in part.lowerBound / layout.clusterBytes..<end {
            if freed.count >= Parallels.Limit.freedRuns { try commit() }
            unlink(block)
        }
        return ClearStep(.done, length: part.count)
    }
}
