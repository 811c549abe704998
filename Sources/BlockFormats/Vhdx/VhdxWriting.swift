import BlockCore

extension VhdxDriver {
    /// Where one block's part of a write goes.
    private struct Place {
        var block: Int
        var hostOffset: Int
        /// What has to be filled in around the new bytes.
        var rest: Rest

        enum Rest { case none, zeroes, old, absentSectors }
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let place = try place(forBlockAt: offset + done)
            let inside = (offset + done) % blockBytes
            let count = min(bytes.byteCount - done, blockBytes - inside)
            let part = bytes.extracting(done..<done + count)
            if case .none = place.rest {
                try file.write(part, at: place.hostOffset + inside)
            } else {
                try fill(place, part, at: offset + done, old)
            }
            done += count
        }
    }

    /// Finds the place of a block, or takes one that only this request fills, then links.
    private func place(forBlockAt offset: Int) throws(BlockError) -> Place {
        let block = offset / blockBytes
        return try state.wait(until: { !$0.filling.contains(block) }) { (state) throws(BlockError) in
            try state.beginDataChanges()
            let kind = try state.kind(state.entry(ofBlock: block), block: block)
            switch kind {
            case .stored(let host): return Place(block: block, hostOffset: host, rest: .none)
            case .partial(let host):
                state.filling.insert(block)
                return Place(block: block, hostOffset: host, rest: .absentSectors)
            case .zero, .absent:
                if state.table.isCrowded { try state.commit() }
                let host = try state.allocate(blockBytes)
                state.filling.insert(block)
                return Place(block: block, hostOffset: host, rest: kind == .zero ? .zeroes : .old)
            }
        }
    }

    /// Fills a block with the new bytes and what the guest saw around them, then says that it is all there.
    private func fill(
        _ place: Place, _ bytes: RawSpan, at offset: Int, _ old: any GuestReader
    ) throws(BlockError) {
        let guest = place.block * blockBytes..<(place.block + 1) * blockBytes
        let written = offset..<offset + bytes.byteCount
        do throws(BlockError) {
            // From back to front, so that the file ends with the block and grows once.
            try complete(written.upperBound..<guest.upperBound, place, old)
            try complete(guest.lowerBound..<written.lowerBound, place, old)
            try file.write(bytes, at: place.hostOffset + offset - guest.lowerBound)
        } catch {
            finishFill(place) { state in giveBack(place, &state) }
            throw error
        }
        var failure: BlockError?
        finishFill(place) { state in
            do throws(BlockError) {
                try state.setEntry(
                    ofBlock: place.block, to: Vhdx.entry(.fullyPresent, at: place.hostOffset))
            } catch {
                giveBack(place, &state)
                failure = error
            }
        }
        if let failure { throw failure }
    }

    private func finishFill(_ place: Place, _ body: (inout VhdxState) -> Void) {
        state.withLock { state in
            body(&state)
            state.filling.remove(place.block)
        }
        state.notifyAll()
    }

    /// Nothing refers to a place that was taken for a block and not linked.
    private func giveBack(_ place: Place, _ state: inout VhdxState) {
        guard place.rest != .absentSectors else { return }
        state.space.release(place.hostOffset..<place.hostOffset + blockBytes)
    }

    /// Puts into a block what the guest saw in `range`, which ends with the block, beyond the disk perhaps.
    private func complete(
        _ range: Range<Int>, _ place: Place, _ old: any GuestReader
    ) throws(BlockError) {
        let host = place.hostOffset - place.block * blockBytes
        guard case .absentSectors = place.rest else {
            let isZero = place.rest == .zeroes || !old.hasBacking(in: range)
            return try file.fill(at: host + range.lowerBound, withOld: range, isZero: isZero, old)
        }
        var offset = range.lowerBound
        while offset < min(range.upperBound, virtualSize) {
            let run = try extent(at: offset, limit: min(range.upperBound, virtualSize) - offset)
            if run.status == .unallocated {
                let part = offset..<offset + run.length
                try file.fill(
                    at: host + offset, withOld: part, isZero: !old.hasBacking(in: part), old)
            }
            offset += run.length
        }
    }
}

extension VhdxDriver: ZeroWriting, Discarding {
    /// Parts of stored blocks are zeroed in their places.
    public var zeroGranularity: Int { 512 }
    public var discardGranularity: Int { 512 }
    /// What an image without a parent does not store is marked when it gets one.
    public var marksZeroes: Bool { true }

    /// What is zeroed a part at a time, where it must be stored.
    private static let zeroBytes = 1 << 20

    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        try clear(offset..<offset + count, mayUnmap: mayUnmap, mustRead: true, old)
        return true
    }

    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        try clear(offset..<offset + count, mayUnmap: true, mustRead: false, old)
    }

    /// Whole blocks get a mark that says zero and lose their place, but for those of a fixed image; parts of
    /// stored ones become holes of the file.
    private func clear(
        _ range: Range<Int>, mayUnmap: Bool, mustRead: Bool, _ old: any GuestReader
    ) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let block = offset / blockBytes
            let end = min(range.upperBound, (block + 1) * blockBytes)
            let isWhole = offset % blockBytes == 0 && (end % blockBytes == 0 || end == virtualSize)
            let kind = try state.withLock { (state) throws(BlockError) in
                if isWhole { return try state.markZero(block, keepsPlace: !mayUnmap) }
                let kind = try state.kind(state.entry(ofBlock: block), block: block)
                if case .stored = kind { try state.beginDataChanges() }
                return kind
            }
            switch kind {
            case .stored(let host):
                try file.writeZeroes(
                    at: host + offset % blockBytes, count: end - offset, flags: mayUnmap ? .mayUnmap : [])
            case .absent where mustRead && old.hasBacking(in: offset..<end),
                .partial where mustRead:
                try storeZeroes(offset..<end, old)
            default: break
            }
            offset = end
        }
    }

    private func storeZeroes(_ range: Range<Int>, _ old: any GuestReader) throws(BlockError) {
        let zeroes = AlignedBuffer(count: min(range.count, Self.zeroBytes), zeroed: true)
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(zeroes.count, range.upperBound - offset)
            try write(zeroes.bytes(0..<count), at: offset, old: old)
            offset += count
        }
    }
}

extension VhdxState {
    /// Says of a whole block that it reads as zeroes.
    ///
    /// - Returns: what is left to do: `stored` when it keeps its place, which has to be zeroed.
    fileprivate mutating func markZero(_ block: Int, keepsPlace: Bool) throws(BlockError) -> Kind {
        let entry = try entry(ofBlock: block)
        let before = try kind(entry, block: block)
        if case .zero = before { return .zero }
        try beginDataChanges()
        switch before {
        case .stored where keepsPlace || metadata.leavesBlocksAllocated: return before
        case .zero, .stored, .partial, .absent: break
        }
        // Before the place is given back: what is given back when this is written, nothing may refer to.
        if table.isCrowded { try commit() }
        try setEntry(ofBlock: block, to: Vhdx.zeroEntry)
        switch before {
        case .stored(let host), .partial(let host): release(host..<host + geometry.blockBytes)
        case .zero, .absent: break
        }
        return .zero
    }
}
