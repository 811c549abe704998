import BlockCore

extension ParallelsDriver {
    /// Where a part of a write goes: to clusters that follow each other in the file.
    private struct Place {
        var hostOffset: Int
        var count: Int
        /// Clusters that have to be filled and linked; `nil` when the guest has them already.
        var newClusters: Range<Int>?
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let start = offset + done
            let place = try state.withLock { (state) throws(BlockError) -> Place in
                try Self.place(for: start, bytes.byteCount - done, &state)
            }
            let part = bytes.extracting(done..<done + place.count)
            if let clusters = place.newClusters {
                try fill(clusters, with: part, at: start, place.hostOffset, old)
            } else {
                try file.write(part, at: place.hostOffset)
            }
            done += place.count
        }
    }

    private static func place(
        for offset: Int, _ count: Int, _ state: inout ParallelsState
    ) throws(BlockError) -> Place {
        try state.beginGuestChange()
        let clusterBytes = state.layout.clusterBytes
        let block = offset / clusterBytes
        let inside = offset % clusterBytes
        guard block < state.table.count else { throw BlockError(.corrupt, "The disk ends before \(offset)") }
        var blocks = state.runLength(at: block, atMost: (inside + count - 1) / clusterBytes + 1)
        let entry = state.table[block]
        var host = state.layout.hostOffset(entry)
        var clusters: Range<Int>?
        if entry == Parallels.unallocated {
            let taken = try state.takeClusters(atMost: blocks)
            do throws(BlockError) {
                for index in 0..<taken.count { try state.table.reserve(block + index, in: state.file) }
            } catch {
                state.space.release(taken)
                throw error
            }
            state.fillsInFlight += 1
            blocks = taken.count
            host = state.layout.hostOffset(ofCluster: taken.lowerBound)
            clusters = taken
        }
        return Place(
            hostOffset: host + inside, count: min(count, blocks * clusterBytes - inside),
            newClusters: clusters)
    }

    /// Fills new clusters with the new bytes and what the guest saw around them, then links them.
    private func fill(
        _ clusters: Range<Int>, with bytes: RawSpan, at offset: Int, _ hostOffset: Int,
        _ old: any GuestReader
    ) throws(BlockError) {
        let inside = offset % clusterBytes
        let end = inside + bytes.byteCount
        let shift = hostOffset - offset
        let guest = offset - inside
        do throws(BlockError) {
            // From back to front, so that the file ends with the last cluster and grows once.
            let tail = guest + end..<guest + clusters.count * clusterBytes
            try file.fill(at: tail.lowerBound + shift, withOld: tail, isZero: !hasBacking, old)
            try file.fill(at: guest + shift, withOld: guest..<offset, isZero: !hasBacking, old)
            try file.write(bytes, at: hostOffset)
        } catch {
            finishFill { $0.space.release(clusters) }
            throw error
        }
        try finishFill { state throws(BlockError) in
            do throws(BlockError) { try state.link(offset / clusterBytes, to: clusters) } catch {
                state.space.release(clusters)
                throw error
            }
        }
    }

    private func finishFill(
        _ body: (inout ParallelsState) throws(BlockError) -> Void
    ) throws(BlockError) {
        defer { state.notifyAll() }
        try state.withLock { state throws(BlockError) in
            state.fillsInFlight -= 1
            try body(&state)
        }
    }

    private func finishFill(_ body: (inout ParallelsState) -> Void) {
        state.withLock { state in
            state.fillsInFlight -= 1
            body(&state)
        }
        state.notifyAll()
    }
}

extension ParallelsDriver: ZeroWriting, Discarding {
    public var zeroGranularity: Int { clusterBytes }
    public var discardGranularity: Int { clusterBytes }

    /// Clusters that may be given back lose their entries, others become holes of the file. Over a backing
    /// file there is no way to say zero but zeroes.
    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        if hasBacking { return false }
        if mayUnmap {
            try unmap(offset, count)
        } else {
            try zeroInPlace(offset, count)
        }
        return true
    }

    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        // What is unmapped would show the backing file's old bytes.
        if !hasBacking { try unmap(offset, count) }
    }

    private func blocks(_ offset: Int, _ count: Int) -> Range<Int> {
        offset / clusterBytes..<(offset + count - 1) / clusterBytes + 1
    }

    private func unmap(_ offset: Int, _ count: Int) throws(BlockError) {
        let range = blocks(offset, count)
        try state.withLock { (state) throws(BlockError) in
            for block in range.clamped(to: 0..<state.table.count) {
                guard state.table[block] != Parallels.unallocated else { continue }
                try state.beginGuestChange()
                if state.freed.count >= Parallels.Limit.freedRuns { try state.commit() }
                state.unlink(block)
            }
        }
    }

    private func zeroInPlace(_ offset: Int, _ count: Int) throws(BlockError) {
        var block = offset / clusterBytes
        let end = blocks(offset, count).upperBound
        while block < end {
            let (host, blocks) = try state.withLock { (state) throws(BlockError) -> (Int?, Int) in
                guard block < state.table.count else { return (nil, end - block) }
                let blocks = state.runLength(at: block, atMost: end - block)
                let entry = state.table[block]
                guard entry != Parallels.unallocated else { return (nil, blocks) }
                try state.beginGuestChange()
                return (state.layout.hostOffset(entry), blocks)
            }
            if let host {
                let length = min(blocks * clusterBytes, offset + count - block * clusterBytes)
                try file.writeZeroes(at: host, count: length, flags: [])
            }
            block += blocks
        }
    }
}

extension ParallelsState {
    /// Before the guest's bytes change.
    mutating func beginGuestChange() throws(BlockError) {
        guard isSound else {
            throw BlockError(.corrupt, "The image was opened to be checked, not to be written to")
        }
        try beginChanges()
    }
}
