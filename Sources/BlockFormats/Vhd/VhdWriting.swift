import BlockCore

extension VhdDriver {
    /// Where one block's part of a write goes.
    private struct Place {
        /// Where the block's bitmap is in the file, in bytes.
        var offset: Int
        /// Whether the table does not refer to it yet.
        var isNew: Bool
        /// Whether sectors that are not written show the parent.
        var hasParent: Bool
    }

    /// One block's part of a request.
    private struct Part {
        var block: Int
        /// The bytes within the block.
        var range: Range<Int>

        var sectors: Range<Int> {
            range.lowerBound / Vhd.sectorBytes..<(range.upperBound + Vhd.sectorBytes - 1) / Vhd.sectorBytes
        }
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        guard case .dynamic(let state) = body else { return try file.write(bytes, at: offset) }
        var done = 0
        while done < bytes.byteCount {
            let part = part(from: offset + done, to: offset + bytes.byteCount)
            let piece = bytes.extracting(done..<done + part.range.count)
            let place = try state.withLock { (state) throws(BlockError) in
                try Self.place(for: part.block, &state)
            }
            if place.isNew {
                try fill(part, place, state) { () throws(BlockError) in
                    try storeNew(piece, part, place, old)
                }
            } else {
                try store(piece, part, place, old)
                try state.withLock { (state) throws(BlockError) in
                    try state.mark(place.offset, part.sectors)
                }
            }
            done += part.range.count
        }
    }

    private func part(from offset: Int, to end: Int) -> Part {
        let inside = offset % blockBytes
        return Part(block: offset / blockBytes, range: inside..<min(blockBytes, inside + end - offset))
    }

    private static func place(for block: Int, _ state: inout VhdState) throws(BlockError) -> Place {
        if let offset = state.place(of: block) {
            return Place(offset: offset, isNew: false, hasParent: state.isDifferencing)
        }
        let offset = try state.takePlace()
        state.fillsInFlight += 1
        return Place(offset: offset, isNew: true, hasParent: state.isDifferencing)
    }

    private func hostOffset(_ place: Place, _ inside: Int) -> Int {
        place.offset + VhdHeader.bitmapBytes(ofBlock: blockBytes) + inside
    }

    /// Fills a new block with `body`, then links it.
    private func fill(
        _ part: Part, _ place: Place, _ state: Monitor<VhdState>, _ body: () throws(BlockError) -> Void
    ) throws(BlockError) {
        do throws(BlockError) {
            try body()
            try state.withLock { (state) throws(BlockError) in
                try state.reserve(part.block, at: place.offset)
                try state.link(part.block, to: place.offset, part.sectors)
                state.fillsInFlight -= 1
            }
        } catch {
            state.withLock { state in
                state.giveBack(place.offset, for: part.block)
                state.fillsInFlight -= 1
            }
            state.notifyAll()
            throw error
        }
        state.notifyAll()
    }

    /// A block of a disk without parent is all there: what is not written are zeroes.
    private func storeNew(
        _ bytes: RawSpan, _ part: Part, _ place: Place, _ old: any GuestReader
    ) throws(BlockError) {
        if !place.hasParent {
            for rest in [part.range.upperBound..<blockBytes, 0..<part.range.lowerBound] {
                try file.fill(
                    at: hostOffset(place, rest.lowerBound), withOld: rest, isZero: true, old)
            }
        }
        try store(bytes, part, place, old)
    }

    /// Over a parent, sectors are here as a whole or not at all.
    private func store(
        _ bytes: RawSpan, _ part: Part, _ place: Place, _ old: any GuestReader
    ) throws(BlockError) {
        let whole = part.sectors.lowerBound * Vhd.sectorBytes..<part.sectors.upperBound * Vhd.sectorBytes
        guard place.hasParent, whole != part.range else {
            return try file.write(bytes, at: hostOffset(place, part.range.lowerBound))
        }
        let buffer = AlignedBuffer(count: whole.count)
        let last = whole.count - Vhd.sectorBytes
        for start in last > 0 ? [0, last] : [0] {
            var edge = buffer.mutableBytes(start..<start + Vhd.sectorBytes)
            try old.readOld(into: &edge, at: part.block * blockBytes + whole.lowerBound + start)
        }
        var all = buffer.mutableBytes
        all.copy(from: bytes, at: part.range.lowerBound - whole.lowerBound)
        try file.write(buffer.bytes, at: hostOffset(place, whole.lowerBound))
    }
}

extension VhdDriver: ZeroWriting, Discarding {
    public var zeroGranularity: Int { Vhd.sectorBytes }
    public var discardGranularity: Int { Vhd.sectorBytes }

    /// What is stored becomes a hole of the file and stays in the table, as other programs expect of a file
    /// without gaps; over a parent, what is not stored gets a block that is a hole.
    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        let flags: ZeroFlags = mayUnmap ? .mayUnmap : []
        guard case .dynamic(let state) = body else {
            try file.writeZeroes(at: offset, count: count, flags: flags)
            return true
        }
        var start = offset
        while start < offset + count {
            let part = part(from: start, to: offset + count)
            try zero(part, at: start, flags, state, old)
            start += part.range.count
        }
        return true
    }

    private func zero(
        _ part: Part, at offset: Int, _ flags: ZeroFlags, _ state: Monitor<VhdState>, _ old: any GuestReader
    ) throws(BlockError) {
        let place = try state.withLock { (state) throws(BlockError) -> Place? in
            let shows = state.isDifferencing && old.hasBacking(in: offset..<offset + part.range.count)
            guard shows || state.place(of: part.block) != nil else { return nil }
            return try Self.place(for: part.block, &state)
        }
        guard let place else { return }
        let clear = { () throws(BlockError) in
            try self.file.writeZeroes(
                at: self.hostOffset(place, part.range.lowerBound), count: part.range.count, flags: flags)
        }
        if place.isNew { return try fill(part, place, state, clear) }
        try clear()
        guard place.hasParent else { return }
        try state.withLock { (state) throws(BlockError) in try state.mark(place.offset, part.sectors) }
    }

    /// What is stored becomes a hole; what the parent shows stays.
    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        var start = offset
        while start < offset + count {
            let extent = try extent(at: start, limit: offset + count - start)
            if case .data(let hostOffset) = extent.status {
                try file.writeZeroes(at: hostOffset, count: extent.length)
            }
            start += extent.length
        }
    }
}
