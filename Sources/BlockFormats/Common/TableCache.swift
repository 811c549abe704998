import BlockCore

/// A bounded cache of table parts ("slices"), written back in the order that its owner decides.
///
/// Not thread-safe: used under the driver's lock. Offsets and sizes are in bytes.
final class TableCache {
    private struct Slot {
        var offset: Int
        let buffer: AlignedBuffer
        /// The bytes that differ from the file.
        var dirty: Range<Int>?
        /// Used since the clock hand last came by.
        var wasUsed: Bool
    }

    /// The unit that is written as a whole or not at all.
    private static let sectorBytes = 512

    let sliceSize: Int
    private let capacity: Int
    private let file: BlockNode
    private let loadEvent: MetadataEvent
    private var slots: [Slot] = []
    private var index: [Int: Int] = [:]
    private var hand = 0
    private var dirtyCount = 0
    private var last = (offset: -1, slot: 0)

    /// A cache of `budgetBytes` in slices of `sliceSize`: at least 4, at most 4096 of them.
    init(file: BlockNode, sliceSize: Int, budgetBytes: Int, loadEvent: MetadataEvent) {
        self.file = file
        self.loadEvent = loadEvent
        self.sliceSize = sliceSize
        capacity = max(4, min(budgetBytes / sliceSize, 4096))
    }

    var hasDirty: Bool { dirtyCount > 0 }

    /// Whether loading another slice may have to throw out a changed one.
    var isCrowdedByDirty: Bool { dirtyCount >= capacity - 2 }

    /// The number of the slot that holds the slice at `offset`, loaded if need be. Good until the next call.
    ///
    /// - Parameter load: `false` gives a slice of zeroes without reading.
    func slot(at offset: Int, load: Bool = true) throws(BlockError) -> Int {
        if last.offset == offset { return last.slot }
        if let slot = index[offset] {
            slots[slot].wasUsed = true
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
        index[offset] = slot
        last = (offset, slot)
        return slot
    }

    /// A slot with nothing in it: a new one, or the clean one that was not used for longest.
    private func freeSlot() throws(BlockError) -> Int {
        if slots.count < capacity {
            slots.append(
                Slot(offset: -1, buffer: AlignedBuffer(count: sliceSize), dirty: nil, wasUsed: false))
            return slots.count - 1
        }
        for _ in 0..<2 * slots.count {
            hand = (hand + 1) % slots.count
            if slots[hand].dirty != nil { continue }
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
        slots[slot].dirty = nil
        slots[slot].offset = -1
        last = (-1, 0)
    }

    /// Drops what is cached of `range` (whole slices), changes and all.
    func discard(_ range: Range<Int>) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            if let slot = index[offset] { forget(slot: slot) }
            offset += sliceSize
        }
    }

    /// Drops everything, changes and all.
    func discardAll() {
        index.removeAll()
        slots.removeAll()
        dirtyCount = 0
        hand = 0
        last = (-1, 0)
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

    /// Notes that bytes of a slot were changed; grown to whole sectors, the unit that is written atomically.
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

    /// Writes all changes to the file, in the order of the file, without making them durable.
    func writeBack() throws(BlockError) {
        guard dirtyCount > 0 else { return }
        let order = slots.indices.filter { slots[$0].dirty != nil }
            .sorted { slots[$0].offset < slots[$1].offset }
        for slot in order {
            guard let dirty = slots[slot].dirty else { continue }
            let buffer = slots[slot].buffer
            try file.write(buffer.bytes(dirty), at: slots[slot].offset + dirty.lowerBound)
            slots[slot].dirty = nil
            dirtyCount -= 1
        }
    }
}
