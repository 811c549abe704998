import BlockCore

/// Header and tables of an open image. Not thread-safe: the session's lock guards it.
///
/// The order of writes, with a flush after each step:
///
/// 1. the header's mark "needs a check", once a session;
/// 2. data, and new L2 tables that are zero;
/// 3. the L2 entries that refer to data;
/// 4. the L1 entries that refer to new tables;
/// 5. when the image is closed, the header without the mark.
///
/// After a crash at any point the worst result is a leaked cluster. Sendable is unchecked: only the driver's
/// session passes it between threads.
final class QedState: SessionState, @unchecked Sendable {
    let file: BlockNode
    var header: QedHeader
    var isReadOnly: Bool
    private let l1: TableCache
    private let l2: TableCache
    private var space: TailSpace
    /// The end of the used part of the file, in bytes: whole clusters.
    var end: Int {
        get { space.end }
        set { space = TailSpace(end: newValue) }
    }
    /// The offsets of the L2 tables, ascending; filled only when the image is open for writing.
    var l2Places: [Int] = []
    var writes: TableWrites?
    /// Whether data or new tables were written since the last flush.
    var hasUnflushedWrites = false

    init(file: BlockNode, header: QedHeader, isReadOnly: Bool) throws(BlockError) {
        self.file = file
        self.header = header
        self.isReadOnly = isReadOnly
        l1 = TableCache(
            file: file, sliceSize: header.sliceBytes, budgetBytes: Qed.cacheBytes / 4, loadEvent: .l1Update)
        l2 = TableCache(
            file: file, sliceSize: header.sliceBytes, budgetBytes: Qed.cacheBytes, loadEvent: .l2Load)
        let length = try file.length()
        guard let end = length.roundedUp(to: header.clusterBytes) else {
            throw BlockError(.corrupt, "The QED file is too long")
        }
        space = TailSpace(end: end)
    }

    var virtualSize: Int { header.virtualSize }
    var backing: BackingReference? { header.backing }
    private var hasChanges: Bool { l1.hasDirty || l2.hasDirty || hasUnflushedWrites }

    // MARK: Looking up

    func corrupt(_ message: String, at offset: Int) -> BlockError {
        BlockError(.corrupt, message, path: file.filename, offset: offset)
    }

    /// Number `index` of the table at `offset`.
    private func load(_ cache: TableCache, _ offset: Int, _ index: Int) throws(BlockError) -> (Int, Int) {
        let perSlice = header.sliceBytes / 8
        let slot = try cache.slot(at: offset + index / perSlice * header.sliceBytes)
        return (slot, index % perSlice)
    }

    /// The offset of the L2 table for a guest offset; `nil` when there is none.
    func l2Table(for guest: Int) throws(BlockError) -> Int? {
        try l2Table(number: guest / header.guestBytesPerTable)
    }

    func l2Table(number: Int) throws(BlockError) -> Int? {
        let (slot, index) = try load(l1, header.l1Offset, number)
        let entry = l1.littleEndian64(slot, index)
        if entry == 0 { return nil }
        guard let offset = Int(exactly: entry), header.isTable(at: offset, Int.max / 2) else {
            throw corrupt("The L2 table number \(number) is misplaced (offset \(entry))", at: 0)
        }
        guard try file.storedCount(at: offset, count: header.tableBytes) == header.tableBytes else {
            throw try file.cutError(
                "The L2 table number \(number)", end: offset + header.tableBytes, at: offset)
        }
        return offset
    }

    /// The L2 entries from that of a guest offset on: at most `limit`, all in one slice.
    func entries(at guest: Int, limit: Int) throws(BlockError) -> (slot: Int, first: Int, count: Int)? {
        guard let table = try l2Table(for: guest) else { return nil }
        let number = guest % header.guestBytesPerTable / header.clusterBytes
        let (slot, first) = try load(l2, table, number)
        return (slot, first, min(limit, header.sliceBytes / 8 - first))
    }

    func entry(_ slot: Int, _ index: Int) -> UInt64 { l2.littleEndian64(slot, index) }

    /// Whether entries of a slice are all 0.
    func areUnallocated(_ slot: Int, _ entries: Range<Int>) -> Bool {
        l2.bytes(of: slot).bytes(entries.lowerBound * 8..<entries.upperBound * 8).isZero
    }

    /// The host offset in an L2 entry, also one behind the end of the file: the node reports lost data.
    func statedOffset(_ entry: UInt64) throws(BlockError) -> Int {
        guard let offset = Int(exactly: entry), offset < Int.max / 2, isClusterStart(offset) else {
            throw corrupt("A data cluster is misplaced (offset \(entry))", at: 0)
        }
        return offset
    }

    /// The host offset in an L2 entry, checked to be inside the file.
    func dataOffset(_ entry: UInt64) throws(BlockError) -> Int {
        guard let offset = Int(exactly: entry), isDataPlace(offset) else {
            throw corrupt("A data cluster is misplaced (offset \(entry))", at: 0)
        }
        return offset
    }

    func isDataPlace(_ offset: Int) -> Bool { isClusterStart(offset) && offset < end }

    private func isClusterStart(_ offset: Int) -> Bool {
        offset % header.clusterBytes == 0 && offset >= header.headerClusters * header.clusterBytes
    }

    // MARK: Changing

    /// Collects the offsets of the tables, so that nothing is written over them, and repairs an unclosed
    /// image.
    func prepareForWriting() throws(BlockError) {
        if header.needsCheck { try repairUnclosed() }
        l2Places = []
        for number in 0..<min(header.tableCount, header.entriesPerTable) {
            guard let place = try l2Table(number: number) else { continue }
            guard l2Places.count < Qed.Limit.l2Tables else {
                throw BlockError(.limit, "The image has too many L2 tables to be written to")
            }
            l2Places.append(place)
        }
        l2Places.sort()
        try clearFeatures()
    }

    /// Clears the autoclear features before the first change: Platter implements none of them.
    func clearFeatures() throws(BlockError) {
        guard header.autoclear != 0 else { return }
        header.autoclear = 0
        try writeHeader()
        try file.flush()
    }

    func writeHeader() throws(BlockError) {
        try file.write(header.serialised().span.bytes, at: 0)
    }

    /// Sets the mark "needs a check", durably, before the first change that a crash could leave half done.
    /// Flushes with the lock held, once a session: no other change may precede the mark.
    private func markAsOpen() throws(BlockError) {
        guard !header.needsCheck else { return }
        header.features |= Qed.Feature.needCheck
        do throws(BlockError) {
            try writeHeader()
            try file.flush()
        } catch {
            header.features &= ~Qed.Feature.needCheck
            throw error
        }
    }

    /// Takes adjacent clusters.
    func allocate(_ count: Int) throws(BlockError) -> Int {
        try markAsOpen()
        let unit = header.clusterBytes
        guard let place = space.take(count * unit, unit: unit, limit: Int.max / 2) else {
            throw BlockError(.noSpace, "The image cannot grow further", path: file.filename)
        }
        return place
    }

    /// Gives back clusters without a reference.
    ///
    /// - Parameter guest: the guest offset for which they were taken, if that reads as zeroes.
    func giveBack(_ offset: Int, _ count: Int, guest: Int? = nil) {
        space.giveBack(offset..<offset + count * header.clusterBytes, guest: guest)
    }

    /// Links unused gaps, as holes, to guest clusters that read as zeroes, so that they are no leaks.
    private func fillGaps() throws(BlockError) {
        for gap in space.takeZeroGaps() {
            let unit = header.clusterBytes
            for index in 0..<gap.range.count / unit {
                let guest = gap.guest + index * unit
                if let (slot, first, _) = try entries(at: guest, limit: 1),
                    entry(slot, first) > Qed.zeroCluster
                {
                    continue
                }
                let host = gap.range.lowerBound + index * unit
                try file.writeZeroes(at: host, count: unit)
                try setEntries(at: guest, count: 1) { _ in UInt64(host) }
            }
        }
    }

    /// Whether data at `range` would overlap the header or a table.
    func isMetadata(_ range: Range<Int>) -> Bool {
        let size = header.tableBytes
        if range.overlaps(header.l1Offset..<header.l1Offset + size) { return true }
        // The last table that starts before the range ends.
        let behind = l2Places.partitioningIndex { $0 >= range.upperBound }
        return behind > 0 && l2Places[behind - 1] + size > range.lowerBound
    }

    /// Allocates the space of the L2 slice of `guest` in the file, and makes the table if there is none.
    func reserveEntries(at guest: Int) throws(BlockError) {
        try markAsOpen()
        if l1.isCrowdedByDirty || l2.isCrowdedByDirty { try commit() }
        if try l2Table(for: guest) == nil { try addTable(for: guest) }
        if let (slot, _, _) = try entries(at: guest, limit: 1) { try l2.reserve(slot) }
    }

    /// Sets the L2 entries from that of `guest` on, all in one slice; their table is made if there is none.
    func setEntries(at guest: Int, count: Int, to value: (Int) -> UInt64) throws(BlockError) {
        try reserveEntries(at: guest)
        guard let (slot, first, _) = try entries(at: guest, limit: 1) else { return }
        for index in 0..<count { l2.setLittleEndian64(slot, first + index, to: value(index)) }
    }

    private func addTable(for guest: Int) throws(BlockError) {
        let place = try allocate(header.tableClusters)
        do throws(BlockError) {
            try file.writeReservedZeroes(at: place, count: header.tableBytes)
            let number = guest / header.guestBytesPerTable
            let (slot, index) = try load(l1, header.l1Offset, number)
            try l1.reserve(slot)
            l1.setLittleEndian64(slot, index, to: UInt64(place))
        } catch {
            giveBack(place, header.tableClusters)
            throw error
        }
        // The cache may hold slices of the former contents.
        l2.discard(place..<place + header.tableBytes)
        l2Places.insert(place, at: l2Places.partitioningIndex { $0 >= place })
    }

    /// Makes all changes durable, in the order above.
    func commit() throws(BlockError) {
        try finishPendingWrites()
        try file.flush()
        hasUnflushedWrites = false
        if l2.hasDirty {
            try l2.writeBack()
            try file.flush()
        }
        if l1.hasDirty {
            try l1.writeBack()
            try file.flush()
        }
    }

    private func finishPendingWrites() throws(BlockError) {
        var tables = self
        try tables.finishWrites()
    }

    /// In the same order as ``commit()``.
    func takeChanges() -> TableWrites? {
        let writes = TableWrites(
            [TableWrites.Step(parts: l2.takeChanges()), TableWrites.Step(parts: l1.takeChanges())], to: file)
        l1.hold(for: writes)
        l2.hold(for: writes)
        hasUnflushedWrites = false
        return writes
    }

    func settle(failed: Bool) {
        l1.settle(failed: failed)
        l2.settle(failed: failed)
        if failed { hasUnflushedWrites = true }
    }

    /// Writes all changes, cuts unused space off the end of the file, and clears the mark "needs a check".
    func finish() throws(BlockError) {
        guard !isReadOnly else { return }
        // A gap that cannot be filled stays a leak.
        try? fillGaps()
        if hasChanges { try commit() }
        space.trim(file)
        guard header.needsCheck else { return }
        header.features &= ~Qed.Feature.needCheck
        do throws(BlockError) {
            try writeHeader()
            try file.flush()
        } catch {
            header.features |= Qed.Feature.needCheck
            throw error
        }
    }

    /// Drops all cached slices: the file was changed directly.
    func forgetTables() {
        l1.discardAll()
        l2.discardAll()
    }

    /// Sets entry `number` of the L1 table.
    func setL2Table(number: Int, to offset: Int) throws(BlockError) {
        let (slot, index) = try load(l1, header.l1Offset, number)
        l1.setLittleEndian64(slot, index, to: UInt64(offset))
    }

    /// Clears the L1 entries behind the end of the disk. An interrupted growth leaves some, with empty
    /// tables; other programs may leave some too. The tables themselves stay as they are. Durable on return.
    func dropTablesBehindEnd() throws(BlockError) {
        try eachTableBehindEnd { (number) throws(BlockError) in
            if l1.isCrowdedByDirty { try commit() }
            try setL2Table(number: number, to: 0)
        }
        try commit()
    }

    /// Runs `body` for each L1 entry behind the end of the disk that is not 0.
    func eachTableBehindEnd(_ body: (_ number: Int) throws(BlockError) -> Void) throws(BlockError) {
        if l1.hasDirty { try commit() }
        var offset = header.l1Offset + min(header.tableCount, header.mappableTables) * 8
        let end = min(header.l1Offset + header.mappableTables * 8, try file.length())
        while offset < end {
            let run = try file.status(at: offset, limit: min(end - offset, header.sliceBytes))
            let first = (offset - header.l1Offset) / 8
            // A run may end inside an entry.
            offset += max(8, run.length.roundedDown(to: 8))
            if run.isZero { continue }
            for number in first..<(offset - header.l1Offset) / 8 {
                let (slot, index) = try load(l1, header.l1Offset, number)
                if l1.littleEndian64(slot, index) != 0 { try body(number) }
            }
        }
    }
}
