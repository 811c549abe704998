import BlockCore

extension VdiDriver {
    /// Where one block's part of a write goes.
    private struct Place {
        var hostOffset: Int
        /// The block of the data area that has to be filled and linked; `nil` when the guest has it already.
        var newIndex: UInt32?
        /// Whether the rest of a new block reads as zeroes.
        var restIsZero = true
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let block = (offset + done) / blockBytes
            let inside = (offset + done) % blockBytes
            let count = min(bytes.byteCount - done, blockBytes - inside)
            let place = try state.withLock { (state) throws(BlockError) -> Place in
                try Self.place(for: block, &state)
            }
            let part = bytes.extracting(done..<done + count)
            if let index = place.newIndex {
                try fill(block, index, place, part, inside, old)
            } else {
                try file.write(part, at: place.hostOffset + inside)
            }
            done += count
        }
    }

    private static func place(for block: Int, _ state: inout VdiState) throws(BlockError) -> Place {
        let entry = state.map[block]
        if entry < Vdi.discarded {
            return Place(hostOffset: state.header.hostOffset(ofBlock: Int(entry)), newIndex: nil)
        }
        try state.map.reserve(block, in: state.file)
        let index = try state.takeBlock()
        state.fillsInFlight += 1
        return Place(
            hostOffset: state.header.hostOffset(ofBlock: Int(index)), newIndex: index,
            restIsZero: entry == Vdi.discarded || !state.header.type.hasParent)
    }

    /// Fills a new block with the new bytes and what the guest saw around them, then links it.
    private func fill(
        _ block: Int, _ index: UInt32, _ place: Place, _ bytes: RawSpan, _ inside: Int,
        _ old: any GuestReader
    ) throws(BlockError) {
        let guest = block * blockBytes
        let end = inside + bytes.byteCount
        do throws(BlockError) {
            // From back to front, so that the file ends with the block and grows once.
            try complete(end..<blockBytes, place, guest, old)
            try complete(0..<inside, place, guest, old)
            try file.write(bytes, at: place.hostOffset + inside)
        } catch {
            finishFill { $0.giveBack(index, for: place.restIsZero ? block : nil) }
            throw error
        }
        finishFill { $0.link(block, to: index) }
    }

    private func finishFill(_ body: (inout VdiState) -> Void) {
        state.withLock { state in
            body(&state)
            state.fillsInFlight -= 1
        }
        state.notifyAll()
    }

    private func complete(
        _ part: Range<Int>, _ place: Place, _ guest: Int, _ old: any GuestReader
    ) throws(BlockError) {
        try file.fill(
            at: place.hostOffset + part.lowerBound,
            withOld: guest + part.lowerBound..<guest + part.upperBound,
            isZero: place.restIsZero, old)
    }
}

extension VdiDriver: ZeroWriting, Discarding {
    public var zeroGranularity: Int { blockBytes }
    public var discardGranularity: Int { blockBytes }

    /// What is stored becomes a hole of the file and stays in the map, whose blocks other programs expect to
    /// be all in use; over a parent, what is not stored gets the mark that says zero.
    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        try eachBlock(offset, count) { (hostOffset, length) throws(BlockError) in
            try file.writeZeroes(at: hostOffset, count: length, flags: mayUnmap ? .mayUnmap : [])
        }
        return true
    }

    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        try eachBlock(offset, count) { (hostOffset, length) throws(BlockError) in
            try file.writeZeroes(at: hostOffset, count: length)
        }
    }

    private func eachBlock(
        _ offset: Int, _ count: Int, _ body: (Int, Int) throws(BlockError) -> Void
    ) throws(BlockError) {
        var block = offset / blockBytes
        while block * blockBytes < offset + count {
            let host = state.withLock { state -> Int? in
                let entry = state.map[block]
                if entry < Vdi.discarded { return state.header.hostOffset(ofBlock: Int(entry)) }
                if entry == Vdi.unallocated && state.header.type.hasParent {
                    state.map[block] = Vdi.discarded
                }
                return nil
            }
            if let host { try body(host, min(blockBytes, offset + count - block * blockBytes)) }
            block += 1
        }
    }
}
