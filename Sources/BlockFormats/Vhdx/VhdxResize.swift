import BlockCore

extension VhdxDriver: Resizable {
    /// Changes the size of the disk.
    ///
    /// The order of writes when growing:
    ///
    /// 1. zeroes over old data behind the end of the disk, and space for the blocks of a fixed image;
    /// 2. the new entries of the BAT, which no read uses yet, durable. A BAT without room is written to
    ///    another place as a whole;
    /// 3. one entry of the log with the new size and the place of the BAT.
    ///
    /// When shrinking, the size is first; then the lost entries are cleared, and their space is given back.
    ///
    /// - Throws: `unsupported` for a preallocation or a size that is not a multiple of the sector size;
    ///   `limit`, `corrupt`, `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        guard virtualSize <= Vhdx.Limit.virtualSize else {
            throw BlockError(.limit, "Image size too large; max of 64TB")
        }
        let before = self.virtualSize
        // The identity must not change without a change of the disk: children would refuse it.
        if virtualSize == before { return }
        if virtualSize > before { try storeLastBlock(guest) }
        try session.exclusively { (state) throws(BlockError) in
            guard virtualSize % state.geometry.sectorBytes == 0 else {
                throw BlockError(
                    .unsupported,
                    "The size must be a multiple of the disk's sectors of \(state.geometry.sectorBytes) bytes"
                )
            }
            try state.beginDataChanges()
            try state.commit()
            if virtualSize > before {
                try state.grow(to: virtualSize)
            } else {
                try state.shrink(to: virtualSize)
            }
        }
    }

    /// Stores the last block, so that its part behind the end of the disk does not show the parent when the
    /// disk grows.
    private func storeLastBlock(_ guest: GuestAccess) throws(BlockError) {
        let (sector, isMissing) = try session.withLock { (state) throws(BlockError) -> (Int, Bool) in
            let geometry = state.geometry
            guard geometry.hasParent, geometry.virtualSize % blockBytes > 0 else { return (0, false) }
            let last = geometry.blockCount - 1
            switch try state.kind(state.entry(ofBlock: last), block: last) {
            case .absent where !guest.hasBacking(in: geometry.virtualSize..<geometry.virtualSize + 1):
                return (0, false)
            case .absent, .partial: return (geometry.sectorBytes, true)
            case .zero, .stored: return (0, false)
            }
        }
        guard isMissing else { return }
        let buffer = AlignedBuffer(count: sector)
        var span = buffer.mutableBytes
        try guest.read(into: &span, at: virtualSize - sector)
        try guest.write(buffer.bytes, at: virtualSize - sector)
    }
}

extension VhdxState {
    fileprivate mutating func grow(to size: Int) throws(BlockError) {
        try clearTail()
        let entries = geometry.entryCount(forSize: size)
        if entries * 8 <= batRange.count {
            try growInPlace(to: size, entries: entries)
        } else {
            try growElsewhere(to: size, entries: entries)
        }
    }

    /// Clears the old data behind the end of the disk, which must not reappear when it grows.
    private mutating func clearTail() throws(BlockError) {
        let inside = geometry.virtualSize % geometry.blockBytes
        let block = geometry.virtualSize / geometry.blockBytes
        guard inside > 0, case .stored(let host) = try kind(entry(ofBlock: block), block: block) else {
            return
        }
        try file.writeZeroes(at: host + inside, count: geometry.blockBytes - inside)
    }

    /// A new entry of a grown BAT: zero, or a place in a fixed image.
    private mutating func newEntry(_ index: Int, blockCount: Int) throws(BlockError) -> UInt64 {
        guard let block = geometry.block(ofEntry: index), block < blockCount else { return 0 }
        guard metadata.leavesBlocksAllocated else { return Vhdx.zeroEntry }
        let host = try allocate(geometry.blockBytes)
        try file.writeZeroes(at: host, count: geometry.blockBytes)
        return Vhdx.entry(.fullyPresent, at: host)
    }

    private mutating func growInPlace(to size: Int, entries: Int) throws(BlockError) {
        let blocks = VhdxGeometry.blocks(in: size, of: geometry.blockBytes)
        let first = geometry.firstUnusedEntry
        for index in first..<max(entries, first) where !geometry.hasEntry(index) {
            if table.isCrowded { try commit() }
            try table.set(index, to: newEntry(index, blockCount: blocks), view)
        }
        try commit()
        try log(try pages(changing: [try sizeChange(size)]))
        metadata.geometry.virtualSize = size
    }

    private mutating func growElsewhere(to size: Int, entries: Int) throws(BlockError) {
        let bytes = (entries * 8).roundedUp(to: Vhdx.unitBytes) ?? 0
        guard bytes <= Int(UInt32.max) else {
            throw BlockError(.limit, "The BAT of the VHDX image would become too large")
        }
        let blocks = VhdxGeometry.blocks(in: size, of: geometry.blockBytes)
        try moveTable(bytes, with: [try sizeChange(size)]) { (state, index) throws(BlockError) in
            if state.geometry.hasEntry(index) { return try state.table.entry(index, state.view) }
            return index < entries ? try state.newEntry(index, blockCount: blocks) : 0
        }
        metadata.geometry.virtualSize = size
        try? commit()
    }

    /// Writes a BAT of `bytes` bytes to another place, and makes it valid together with changes of the
    /// metadata, atomically. The old BAT must have no unwritten changes.
    ///
    /// - Parameter entry: the entries of the new BAT, by number.
    mutating func moveTable(
        _ bytes: Int, with changes: [Change],
        _ entry: (inout VhdxState, Int) throws(BlockError) -> UInt64
    ) throws(BlockError) {
        // After a failure the file may refer to the new place all the same, so it is not given back.
        let target = try allocate(bytes)
        try writeTable(at: target..<target + bytes, entry)
        try settle()
        var next = regions
        for index in next.all.indices where next.all[index].guid == Vhdx.Region.bat {
            next.all[index].range = target..<target + bytes
        }
        let copy = next.serialised()
        let pages = Vhdx.regionTableOffsets.flatMap { Self.pages(of: copy, at: $0) }
        try log(pages + self.pages(changing: changes))
        release(batRange)
        regions = next
        batRange = target..<target + bytes
        table = VhdxTable(offset: target)
    }

    private mutating func writeTable(
        at target: Range<Int>, _ entry: (inout VhdxState, Int) throws(BlockError) -> UInt64
    ) throws(BlockError) {
        let buffer = AlignedBuffer(count: Vhdx.unitBytes)
        let perPart = Vhdx.unitBytes / 8
        for first in stride(from: 0, to: target.count / 8, by: perPart) {
            var bytes = buffer.mutableBytes
            for index in first..<first + perPart {
                bytes.storeLittleEndian(try entry(&self, index), at: (index - first) * 8)
            }
            try file.write(buffer.bytes, at: target.lowerBound + first * 8)
        }
    }

    fileprivate mutating func shrink(to size: Int) throws(BlockError) {
        let before = geometry
        try log(try pages(changing: [try sizeChange(size)]))
        metadata.geometry.virtualSize = size
        // The size is durable. A failure here is ignored: an entry that stays only costs space.
        try? clearEntries(of: before, butNotOf: geometry)
        try? commit()
    }

    /// Clears the entries that a smaller geometry lacks, and gives back their space.
    mutating func clearEntries(
        of geometry: VhdxGeometry, butNotOf kept: VhdxGeometry
    ) throws(BlockError) {
        let first = kept.firstUnusedEntry
        for index in first..<max(first, geometry.entryCount) where !kept.hasEntry(index) {
            let entry = try table.entry(index, view)
            guard entry != 0 else { continue }
            if table.isCrowded { try commit() }
            try table.set(index, to: 0, view)
            let bytes = geometry.block(ofEntry: index) == nil ? Vhdx.unitBytes : geometry.blockBytes
            if entry & Vhdx.stateMask >= Vhdx.bitmapPresent, let offset = Vhdx.offset(of: entry) {
                release(offset..<offset + bytes)
            }
        }
    }

    // MARK: Changing metadata

    /// Bytes to write at an offset of the metadata.
    typealias Change = (offset: Int, bytes: [UInt8])

    private func sizeChange(_ size: Int) throws(BlockError) -> Change {
        guard let place = metadata.place(of: Vhdx.Item.virtualSize) else {
            throw BlockError(.corrupt, "The VHDX image does not state its size")
        }
        return (place.range.lowerBound, (0..<8).map { UInt8(truncatingIfNeeded: size >> ($0 * 8)) })
    }

    /// The pages of the file that `changes` touch, with the changes made.
    mutating func pages(changing changes: [Change]) throws(BlockError) -> [VhdxPage] {
        // The pages are read from the file, so it must be up to date.
        try settle()
        var pages: [Int: [UInt8]] = [:]
        for change in changes {
            for (index, byte) in change.bytes.enumerated() {
                let place = change.offset + index
                let start = place.roundedDown(to: Vhdx.pageBytes)
                if pages[start] == nil {
                    pages[start] = try view.read(at: start, count: Vhdx.pageBytes)
                }
                pages[start, default: []][place - start] = byte
            }
        }
        return pages.keys.sorted().map { VhdxPage(offset: $0, bytes: pages[$0] ?? []) }
    }
}
