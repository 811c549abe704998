import BlockCore

/// A bounded cache of table parts ("slices"), written back when its owner asks.
///
/// Not thread-safe: used under the driver's lock. Offsets and sizes are in bytes.
/// Unchecked: only the driver's monitor hands it from thread to thread.
final class TableCache: @unchecked Sendable {
    private struct Slot {
        var offset: Int
        let buffer: AlignedBuffer
        /// The bytes of the slice that differ from the file.
        var dirty: Range<Int>?
        /// Whether it was used since the clock hand last passed.
        var wasUsed: Bool
        /// The bytes of the slice that a flush is writing without the lock.
        var held: Range<Int>?
        /// Whether the whole slice has allocated space in the file.
        var hasSpace = false
        /// The round of ``dropUnused()`` in which it was last used.
        var round = 0
    }

    /// The unit that a disk writes atomically, in bytes.
    private static let sectorBytes = 512

    let sliceSize: Int
    private let capacity: Int
    private let file: BlockNode
    private let loadEvent: MetadataEvent
    private var slots: [Slot] = []
    private var index: [Int: Int] = [:]
    private var hand = 0
    private var dirtyCount = 0
    private var heldCount = 0
    private var inFlight: TableWrites?
    private var last = (offset: -1, slot: 0)
    private var round = 0

    /// The largest number of slices: each writing of changes goes through all of them.
    private static let mostSlices = 1 << 20

    /// A cache of `budgetBytes` in slices of `sliceSize`: at least 4, at most 2^20 of them.
    init(file: BlockNode, sliceSize: Int, budgetBytes: Int, loadEvent: MetadataEvent) {
        self.file = file
        self.loadEvent = loadEvent
        self.sliceSize = sliceSize
        capacity = max(4, min(budgetBytes / sliceSize, Self.mostSlices))
    }

    var hasDirty: Bool { dirtyCount > 0 }

    /// Whether loading another slice may have to evict a changed one.
    var isCrowdedByDirty: Bool { dirtyCount + heldCount >= capacity - 2 }

    /// The number of the slot with the slice at `offset`, which is loaded if missing. Valid until the next
    /// call.
    ///
    /// - Parameter load: `false` for a slice of zeroes without a read.
    /// - Throws: `io`; `noSpace` when a changed slice has to be written first; `limit`.
    func slot(at offset: Int, load: Bool = true) throws(BlockError) -> Int {
        if last.offset == offset { return last.slot }
        if let slot = index[offset] {
            slots[slot].wasUsed = true
            slots[slot].round = round
            last = (offset, slot)
            return slot
        }
        let slot = try freeSlot()
        let buffer = slots[slot].buffer
        var bytes = buffer.mutableBytes
        if load { file.emit(loadEvent) }
        if load { try file.read(into: &bytes, at: offset) } else { bytes.fill() }
        slots[slot].offset = offset
        slots[slot].wasUsed = true
        slots[slot].hasSpace = false
        slots[slot].round = round
        index[offset] = slot
        last = (offset, slot)
        return slot
    }

    /// An empty slot: a new one, or that of the clean slice that was unused for longest.
    private func freeSlot() throws(BlockError) -> Int {
        if slots.count < capacity {
            slots.append(
                Slot(offset: -1, buffer: AlignedBuffer(count: sliceSize), dirty: nil, wasUsed: false))
            return slots.count - 1
        }
        for _ in 0..<2 * slots.count {
            hand = (hand + 1) % slots.count
            if slots[hand].dirty != nil || slots[hand].held != nil { continue }
            if slots[hand].wasUsed {
                slots[hand].wasUsed = false
                continue
            }
            forget(slot: hand)
            return hand
        }
        throw BlockError(.limit, "The metadata cache is full of changes", path: file.filename)
    }

    private func forget(slot: Int) {
        index[slots[slot].offset] = nil
        if slots[slot].dirty != nil { dirtyCount -= 1 }
        if slots[slot].held != nil { heldCount -= 1 }
        slots[slot].dirty = nil
        slots[slot].held = nil
        slots[slot].offset = -1
        last = (-1, 0)
    }

    /// Drops the cached slices of `range` (whole slices) with their changes.
    func discard(_ range: Range<Int>) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            if let slot = index[offset] { forget(slot: slot) }
            offset += sliceSize
        }
    }

    /// Drops all slices with their changes.
    func discardAll() {
        index.removeAll()
        slots.removeAll()
        dirtyCount = 0
        heldCount = 0
        inFlight = nil
        hand = 0
        last = (-1, 0)
    }

    /// Frees the memory of unchanged slices that were not used since the last call.
    func dropUnused() {
        let kept = slots.filter { slot in
            slot.offset >= 0 && (slot.dirty != nil || slot.held != nil || slot.round == round)
        }
        slots = kept
        index.removeAll(keepingCapacity: true)
        for (number, slot) in kept.enumerated() { index[slot.offset] = number }
        hand = 0
        // Without the shortcut for the last slice, so that its next use is noted.
        last = (-1, 0)
        round += 1
    }

    /// The memory of all slices, in bytes.
    var cachedBytes: Int { slots.count * sliceSize }

    /// Allocates the space of a slice in the file before the data is written: a full disk must refuse the
    /// request then, not the table that refers to written data.
    ///
    /// - Throws: `noSpace`, `io`.
    func reserve(_ slot: Int) throws(BlockError) {
        if slots[slot].hasSpace { return }
        try file.fillHoles(in: slots[slot].offset..<slots[slot].offset + sliceSize)
        slots[slot].hasSpace = true
    }

    /// The contents of a slot.
    func bytes(of slot: Int) -> AlignedBuffer { slots[slot].buffer }

    func bigEndian64(_ slot: Int, _ entry: Int) -> UInt64 {
        let buffer = slots[slot].buffer
        return buffer.bytes.bigEndian(at: entry &* 8) ?? 0
    }

    func setBigEndian64(_ slot: Int, _ entry: Int, to value: UInt64) {
        let buffer = slots[slot].buffer
        var bytes = buffer.mutableBytes
        bytes.storeBigEndian(value, at: entry &* 8)
        markDirty(slot, entry * 8..<entry * 8 + 8)
    }

    func littleEndian64(_ slot: Int, _ entry: Int) -> UInt64 {
        let buffer = slots[slot].buffer
        return buffer.bytes.littleEndian(at: entry &* 8) ?? 0
    }

    func setLittleEndian64(_ slot: Int, _ entry: Int, to value: UInt64) {
        let buffer = slots[slot].buffer
        var bytes = buffer.mutableBytes
        bytes.storeLittleEndian(value, at: entry &* 8)
        markDirty(slot, entry * 8..<entry * 8 + 8)
    }

    /// Notes that bytes of a slot were changed. The range grows to whole sectors, the unit that is written
    /// atomically.
    func markDirty(_ slot: Int, _ range: Range<Int>) {
        let sector = Self.sectorBytes
        let grown =
            range.lowerBound.roundedDown(
                to: sector)..<min(
                sliceSize, (range.upperBound + sector - 1).roundedDown(to: sector))
        guard let dirty = slots[slot].dirty else {
            slots[slot].dirty = grown
            dirtyCount += 1
            return
        }
        slots[slot].dirty =
            min(dirty.lowerBound, grown.lowerBound)..<max(dirty.upperBound, grown.upperBound)
    }

    /// Writes all changes to the file in ascending order, without making them durable.
    ///
    /// - Throws: `io`, `noSpace`.
    func writeBack() throws(BlockError) {
        // Older changes of the same slices are written first.
        try inFlight?.complete()
        for slot in dirtySlots {
            guard let dirty = slots[slot].dirty else { continue }
            let buffer = slots[slot].buffer
            try file.write(buffer.bytes(dirty), at: slots[slot].offset + dirty.lowerBound)
            slots[slot].dirty = nil
            dirtyCount -= 1
        }
    }

    private var dirtySlots: [Int] {
        guard dirtyCount > 0 else { return [] }
        return slots.indices.filter { slots[$0].dirty != nil }
            .sorted { slots[$0].offset < slots[$1].offset }
    }

    // MARK: Writing without the lock

    /// Takes out all changes, in ascending order. Their slices stay in memory until ``settle(failed:)``.
    func takeChanges() -> [TableWrites.Part] {
        dirtySlots.compactMap { slot in
            guard let dirty = slots[slot].dirty else { return nil }
            slots[slot].held = dirty
            slots[slot].dirty = nil
            dirtyCount -= 1
            heldCount += 1
            let buffer = slots[slot].buffer
            let bytes = buffer.bytes(dirty).array
            return TableWrites.Part(offset: slots[slot].offset + dirty.lowerBound, bytes: bytes)
        }
    }

    /// Notes the writes that the changes that were taken out belong to.
    func hold(for writes: TableWrites) { inFlight = heldCount > 0 ? writes : nil }

    /// Releases the changes that were taken out; after a failed write they count as changes again.
    func settle(failed: Bool) {
        inFlight = nil
        guard heldCount > 0 else { return }
        for slot in slots.indices {
            guard let held = slots[slot].held else { continue }
            slots[slot].held = nil
            if failed { markDirty(slot, held) }
        }
        heldCount = 0
    }
}
