import BlockCore

/// Header and tables of an open image. Not thread-safe: the session's lock guards it.
///
/// The order of writes, with a flush after each step:
///
/// 1. data, and new L2 tables that are zero;
/// 2. the L2 entries that refer to data;
/// 3. the L1 entries that refer to new tables.
///
/// Space that an entry ever referred to is not reused. After a crash at any point the worst result is leaked
/// space; the format has neither reference counts nor a dirty mark to detect it. Sendable is unchecked: only
/// the driver's session passes it between threads.
final class QcowState: SessionState, @unchecked Sendable {
    let file: BlockNode
    /// The file of the guest's bytes, and their encryption.
    let data: GuestData
    var header: QcowHeader
    var isReadOnly: Bool
    /// Never changed in memory: its slices may reach over the data behind the table.
    private let l1: TableCache
    /// L1 entries that are not in the file yet.
    private var newL1Entries: [Int: Int] = [:]
    private let l2: TableCache
    /// The number of L1 entries; more than the disk needs while it grows.
    private(set) var l1Count: Int
    private var space: TailSpace
    /// The end of the used part of the file, in bytes.
    var end: Int {
        get { space.end }
        set { space = TailSpace(end: newValue) }
    }
    /// The offsets of the L2 tables, ascending; filled only when the image is open for writing.
    var l2Places: [Int] = []
    var writes: TableWrites?
    /// Those of ``newL1Entries`` that are being written.
    private var heldL1Entries: [Int: Int] = [:]
    /// Whether data or new tables were written since the last flush.
    var hasUnflushedWrites = false

    private static let l1SliceBytes = 4096
    static let longestFile = 1 << 62

    init(_ data: GuestData, header: QcowHeader, isReadOnly: Bool) throws(BlockError) {
        file = data.node
        self.data = data
        self.header = header
        self.isReadOnly = isReadOnly
        l1Count = header.l1Entries
        l1 = TableCache(
            file: file, sliceSize: Self.l1SliceBytes, budgetBytes: Qcow.cacheBytes / 4, loadEvent: .l1Update)
        l2 = TableCache(
            file: file, sliceSize: header.tableBytes, budgetBytes: Qcow.cacheBytes, loadEvent: .l2Load)
        space = TailSpace(end: try file.length())
        guard space.end <= Self.longestFile else { throw BlockError(.corrupt, "The qcow file is too long") }
    }

    var virtualSize: Int { header.virtualSize }
    var backing: BackingReference? { header.backing }
    private var hasChanges: Bool { l2.hasDirty || !newL1Entries.isEmpty || hasUnflushedWrites }

    func corrupt(_ message: String, at offset: Int) -> BlockError {
        BlockError(.corrupt, message, path: file.filename, offset: offset)
    }

    // MARK: Looking up

    /// Entry `number` of the L1 table; must be below ``l1Count``.
    private func l1Entry(_ number: Int) throws(BlockError) -> UInt64 {
        if let entry = newL1Entries[number] ?? heldL1Entries[number] { return UInt64(entry) }
        let perSlice = Self.l1SliceBytes / 8
        let slot = try l1.slot(at: header.l1Offset + number / perSlice * Self.l1SliceBytes)
        return l1.bigEndian64(slot, number % perSlice)
    }

    /// The offset of an L2 table; `nil` when there is none.
    func l2Table(_ number: Int) throws(BlockError) -> Int? {
        guard number < l1Count else { return nil }
        let entry = try l1Entry(number)
        if entry == 0 { return nil }
        guard let offset = Int(exactly: entry), offset % Qcow.sectorBytes == 0, offset > 0,
            offset <= Self.longestFile
        else { throw corrupt("The L2 table number \(number) is misplaced (offset \(entry))", at: 0) }
        guard header.tableBytes <= end, offset <= end - header.tableBytes else {
            throw try file.cutError(
                "The L2 table number \(number)", end: offset + header.tableBytes, at: offset)
        }
        return offset
    }

    /// The L2 entries from that of a guest offset on: at most `limit`, all in one table.
    func entries(at guest: Int, limit: Int) throws(BlockError) -> (slot: Int, first: Int, count: Int)? {
        guard let table = try l2Table(guest / header.guestBytesPerTable) else { return nil }
        let first = (guest % header.guestBytesPerTable) >> header.clusterBits
        return (try l2.slot(at: table), first, min(limit, header.entriesPerTable - first))
    }

    func entry(_ slot: Int, _ index: Int) -> UInt64 { l2.bigEndian64(slot, index) }

    func isClusterStart(_ offset: Int) -> Bool {
        offset % Qcow.sectorBytes == 0 && offset >= Qcow.headerBytes
    }

    /// Whether a cluster can be at `offset`. The last one may end behind the file.
    func isDataPlace(_ offset: Int) -> Bool { isClusterStart(offset) && offset < end }

    func isCompressedPlace(_ place: Range<Int>) -> Bool {
        !place.isEmpty && place.lowerBound >= Qcow.headerBytes && place.upperBound <= end
    }

    // MARK: Changing

    /// Collects the offsets of the tables, so that nothing is written over them.
    func prepareForWriting() throws(BlockError) {
        l2Places = []
        try forEachTable { (number, entry) throws(BlockError) in
            guard l2Places.count < Qcow.Limit.l2Tables else {
                throw BlockError(.limit, "The image has too many L2 tables to be written to")
            }
            if let place = try l2Table(number) { l2Places.append(place) }
        }
        l2Places.sort()
    }

    /// Runs `body` on each L1 entry that is not 0.
    func forEachTable(_ body: (_ number: Int, _ entry: UInt64) throws(BlockError) -> Void) throws(BlockError)
    {
        let perPart = 1 << 17
        var first = 0
        while first < l1Count {
            let numbers = first..<min(first + perPart, l1Count)
            let part = try file.readBytes(
                at: header.l1Offset + first * 8, count: numbers.count * 8)
            let isNew = newL1Entries.keys.contains { numbers.contains($0) }
            if isNew || !part.span.bytes.isZero {
                for number in numbers {
                    let stored: UInt64 = part.span.bytes.bigEndian(at: (number - first) * 8) ?? 0
                    let entry = newL1Entries[number].map { UInt64($0) } ?? stored
                    if entry != 0 { try body(number, entry) }
                }
            }
            first = numbers.upperBound
        }
    }

    /// The bytes of the L1 table in the file.
    var l1Range: Range<Int> { header.l1Offset..<header.l1Offset + l1Count * 8 }

    /// Notes that the L1 table has moved or has another number of entries. All its entries are in the file.
    func useL1(count: Int) {
        l1Count = count
        l1.discardAll()
    }

    /// Takes adjacent whole clusters.
    func allocate(_ count: Int) throws(BlockError) -> Int {
        try take(count << header.clusterBits, unit: header.clusterBytes)
    }

    /// Takes bytes without alignment.
    func allocateBytes(_ count: Int) throws(BlockError) -> Range<Int> {
        let place = try take(count, unit: 1)
        return place..<place + count
    }

    private func take(_ count: Int, unit: Int) throws(BlockError) -> Int {
        guard let place = space.take(count, unit: unit, limit: Self.longestFile) else {
            throw BlockError(.noSpace, "The image cannot grow further", path: file.filename)
        }
        return place
    }

    /// Gives back space that nothing refers to.
    ///
    /// - Parameter guest: the guest offset for which it was taken, if that reads as zeroes.
    func giveBack(_ place: Range<Int>, guest: Int? = nil) { space.giveBack(place, guest: guest) }

    /// Links unused gaps, as holes, to guest clusters that read as zeroes, so that they are no leaks.
    private func fillGaps() throws(BlockError) {
        let unit = header.clusterBytes
        for gap in space.takeZeroGaps() where gap.guest % unit == 0 {
            for index in 0..<gap.range.count / unit {
                let guest = gap.guest + index * unit
                guard case .unallocated = try clusterRun(at: guest, limit: 1).first else { continue }
                let host = gap.range.lowerBound + index * unit
                try data.writeZeroes(at: host, count: unit, guest: guest)
                try setEntries(at: guest, count: 1) { _ in UInt64(host) }
            }
        }
    }

    /// Whether data at `range` would overlap the header, the backing name or a table.
    func isMetadata(_ range: Range<Int>) -> Bool {
        let fixed = [0..<Qcow.headerBytes, header.nameRange, l1Range]
        if fixed.contains(where: { $0.overlaps(range) }) { return true }
        // The last table that starts before the range ends.
        let behind = l2Places.partitioningIndex { $0 >= range.upperBound }
        return behind > 0 && l2Places[behind - 1] + header.tableBytes > range.lowerBound
    }

    /// Allocates the space of the L2 table of `guest` in the file, and makes the table if there is none.
    func reserveEntries(at guest: Int) throws(BlockError) {
        if l2.isCrowdedByDirty { try commit() }
        let number = guest / header.guestBytesPerTable
        if try l2Table(number) == nil { try addTable(number) }
        if let (slot, _, _) = try entries(at: guest, limit: 1) { try l2.reserve(slot) }
    }

    /// Sets the L2 entries from that of `guest` on, all in one table, which is made if there is none.
    func setEntries(at guest: Int, count: Int, to value: (Int) -> UInt64) throws(BlockError) {
        try reserveEntries(at: guest)
        guard let (slot, first, _) = try entries(at: guest, limit: 1) else { return }
        for index in 0..<min(count, header.entriesPerTable - first) {
            l2.setBigEndian64(slot, first + index, to: value(index))
        }
    }

    private func addTable(_ number: Int) throws(BlockError) {
        let place = try reserveTable()
        do throws(BlockError) {
            let sector = (header.l1Offset + number * 8).roundedDown(to: Qcow.sectorBytes)
            try file.fillHoles(in: max(sector, header.l1Offset)..<header.l1Offset + (number + 1) * 8)
        } catch {
            giveBack(place)
            throw error
        }
        use(place.lowerBound, forTable: number)
        notePlace(place.lowerBound)
    }

    private func notePlace(_ place: Int) {
        l2Places.insert(place, at: l2Places.partitioningIndex { $0 >= place })
    }

    /// Takes allocated space for a table and fills it with zeroes.
    private func reserveTable() throws(BlockError) -> Range<Int> {
        let count = ((header.tableBytes - 1) >> header.clusterBits + 1) << header.clusterBits
        let place = try allocate(count >> header.clusterBits)
        do throws(BlockError) { try file.writeReservedZeroes(at: place, count: count) } catch {
            giveBack(place..<place + count)
            throw error
        }
        return place..<place + count
    }

    /// Points an L1 entry to a table at another offset, and drops outdated slices of that offset.
    private func use(_ place: Int, forTable number: Int) {
        l2.discard(place..<place + header.tableBytes)
        newL1Entries[number] = place
    }

    /// Copies an L2 table without changes in memory to free space, or to the end of the file.
    func moveTable(_ number: Int, from old: Int, to free: Int?) throws(BlockError) {
        var place = free ?? 0
        if free == nil { place = try reserveTable().lowerBound }
        try file.copyInside(old..<old + header.tableBytes, to: place)
        use(place, forTable: number)
        let index = l2Places.partitioningIndex { $0 >= old }
        if index < l2Places.count, l2Places[index] == old { l2Places.remove(at: index) }
        notePlace(place)
    }

    /// Clears entry `number` of the L1 table.
    func dropTable(_ number: Int) { newL1Entries[number] = 0 }

    /// Makes all changes durable, in the order above.
    func commit() throws(BlockError) {
        try finishPendingWrites()
        try file.flush()
        hasUnflushedWrites = false
        if l2.hasDirty {
            try l2.writeBack()
            try file.flush()
        }
        if !newL1Entries.isEmpty {
            try writeL1()
            try file.flush()
        }
    }

    private func finishPendingWrites() throws(BlockError) {
        var tables = self
        try tables.finishWrites()
    }

    private func writeL1() throws(BlockError) {
        for part in newL1Parts() { try file.write(part.bytes.span.bytes, at: part.offset) }
        newL1Entries = [:]
        l1.discardAll()
    }

    /// The new L1 entries as parts of the file, one each.
    private func newL1Parts() -> [TableWrites.Part] {
        newL1Entries.sorted { $0.key < $1.key }.map { number, place in
            var bytes = [UInt8](repeating: 0, count: 8)
            var elements = bytes.mutableSpan
            var span = elements.mutableBytes
            span.storeBigEndian(UInt64(place), at: 0)
            return TableWrites.Part(offset: header.l1Offset + number * 8, bytes: bytes)
        }
    }

    /// In the same order as ``commit()``.
    func takeChanges() -> TableWrites? {
        let writes = TableWrites(
            [TableWrites.Step(parts: l2.takeChanges()), TableWrites.Step(parts: newL1Parts())], to: file)
        l2.hold(for: writes)
        (heldL1Entries, newL1Entries) = (newL1Entries, [:])
        hasUnflushedWrites = false
        return writes
    }

    func settle(failed: Bool) {
        l2.settle(failed: failed)
        if failed {
            newL1Entries.merge(heldL1Entries) { newer, _ in newer }
            hasUnflushedWrites = true
        }
        if !heldL1Entries.isEmpty { l1.discardAll() }
        heldL1Entries = [:]
    }

    /// Writes all changes, and cuts unused space off the end of the file.
    func finish() throws(BlockError) {
        guard !isReadOnly else { return }
        // A gap that cannot be filled stays a leak.
        try? fillGaps()
        if hasChanges { try commit() }
        space.trim(file)
    }

    /// Drops all cached slices: the file was changed directly.
    func forgetTables() {
        l1.discardAll()
        l2.discardAll()
        newL1Entries = [:]
        heldL1Entries = [:]
    }

    /// Writes the header, one sector, and makes it durable. `name` is written with it if it lies in that
    /// sector.
    func writeHeader(_ changed: QcowHeader, name: [UInt8] = []) throws(BlockError) {
        var bytes = changed.serialised()
        if !name.isEmpty {
            bytes += [UInt8](repeating: 0, count: changed.backingOffset - bytes.count) + name
        }
        try file.write(bytes.span.bytes, at: 0)
        header = changed
        try file.flush()
    }
}
