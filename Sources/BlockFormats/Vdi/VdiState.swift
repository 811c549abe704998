import BlockCore

/// Header and block map of an open image. Used under the driver's lock.
///
/// The order of writes:
///
/// 1. data, and the header whose count covers its blocks; a flush;
/// 2. the map that refers to them; a flush.
///
/// Other programs append blocks at the count, so it must never be too low. After a crash at any point the
/// worst result is a count that is too high: a leaked block, which is granted again later. Closing the image
/// closes gaps, so that the count equals the number of entries, as QEMU's check requires: copies, a flush,
/// the map, a flush, the count, a flush, the length of the file.
struct VdiState: BlockMoving {
    let file: BlockNode
    var header: VdiHeader
    var map: BlockTable
    var isReadOnly: Bool
    var headerIsDirty = false
    /// Blocks of the data area that the header counts without an entry for them.
    var spare = SpareBlocks(survey: nil)
    /// Whether the map was checked, so that it may be written to.
    private var isSound = false
    var writes: TableWrites?
    /// Whether the header is among the changes being written.
    private var headerIsHeld = false

    init(file: BlockNode, header: VdiHeader, isReadOnly: Bool) throws(BlockError) {
        self.file = file
        self.header = header
        self.isReadOnly = isReadOnly
        let mapEnd = header.mapOffset + header.blockCount * 4
        guard mapEnd <= (try file.length()) else {
            throw try file.cutError("The block map", end: mapEnd, at: header.mapOffset)
        }
        map = try BlockTable(
            reading: file, at: header.mapOffset, count: header.blockCount, isBigEndian: false)
    }

    /// The size in bytes, rounded to whole sectors.
    var virtualSize: Int {
        min(
            header.virtualSize.roundedUp(to: Vdi.sectorBytes) ?? header.virtualSize,
            header.blockCount * header.blockBytes)
    }

    /// Surveys the map before the first change: shared and uncounted blocks must not be written to.
    mutating func prepareForWriting() throws(BlockError) {
        let survey = VdiSurvey(map: map, count: header.allocatedCount)
        guard survey.findings.isEmpty else {
            throw BlockError(
                .corrupt, "The image's block map is damaged; it can be read, and repaired with 'check -r all'"
            )
        }
        spare = SpareBlocks(survey: survey)
        isSound = true
    }

    // MARK: Blocks

    var blockCount: Int { map.count }

    func hostOffset(ofEntry entry: UInt32) -> Int { header.hostOffset(ofBlock: Int(entry)) }

    func hostRange(ofBlock block: Int) -> Range<Int>? {
        guard map[block] < Vdi.discarded else { return nil }
        let start = hostOffset(ofEntry: map[block])
        return start..<start + header.blockBytes
    }

    mutating func relink(_ block: Int, to entry: UInt32) { map[block] = entry }

    /// Does nothing: a repair must not lower the count, and the next session takes the block.
    mutating func giveBack(_ entry: UInt32, of block: Int) {}

    /// Takes a block of the data area. It has no entry until it is linked.
    mutating func takeBlock() throws(BlockError) -> UInt32 {
        if let index = spare.take() { return index }
        // The two highest numbers have another meaning in the map.
        guard header.allocatedCount < Int(Vdi.discarded) else {
            throw BlockError(.noSpace, "The image cannot hold more blocks")
        }
        let index = UInt32(header.allocatedCount)
        header.allocatedCount += 1
        headerIsDirty = true
        return index
    }

    /// Gives back a block that never had an entry. Blocks at the end are removed from the count.
    ///
    /// - Parameter block: the guest block for which it was taken, if that reads as zeroes.
    mutating func giveBack(_ index: UInt32, for block: Int?) {
        spare.returned.append(index)
        spare.zeroBlocks[index] = block
        while header.allocatedCount > 0,
            let last = spare.returned.firstIndex(of: UInt32(header.allocatedCount - 1))
        {
            spare.returned.remove(at: last)
            header.allocatedCount -= 1
            headerIsDirty = true
            spare.isTooLong = true
        }
    }

    /// Links unused places, as holes, to blocks that read as zeroes, and cuts the file behind the last block.
    /// If either fails, the next session uses the space.
    private mutating func tidyUp() throws(BlockError) {
        for index in spare.returned {
            guard let block = spare.zeroBlocks[index], map[block] >= Vdi.discarded else { continue }
            try file.writeZeroes(
                at: header.hostOffset(ofBlock: Int(index)), count: header.blockBytes)
            map[block] = index
            spare.returned.removeAll { $0 == index }
        }
    }

    private mutating func trim() {
        guard spare.isTooLong, let length = try? file.length() else { return }
        spare.isTooLong = false
        let end = header.hostOffset(ofBlock: header.allocatedCount)
        if length > end { try? file.resize(to: end) }
    }

    var hasChanges: Bool { headerIsDirty || map.isDirty }

    /// Makes all changes durable, in the order above.
    mutating func commit() throws(BlockError) {
        try finishWrites()
        if headerIsDirty { try writeHeader() }
        try file.flush()
        guard map.isDirty else { return }
        try map.write(to: file)
        try file.flush()
    }

    /// In the same order as ``commit()``.
    mutating func takeChanges() -> TableWrites? {
        var first: [TableWrites.Part] = []
        headerIsHeld = headerIsDirty
        if headerIsDirty {
            header.bytes = header.serialised()
            first = [TableWrites.Part(offset: 0, bytes: header.bytes)]
            headerIsDirty = false
        }
        return TableWrites([TableWrites.Step(parts: map.takeChanges())], to: file, first: first)
    }

    mutating func settle(failed: Bool) {
        map.settle(failed: failed)
        if failed && headerIsHeld { headerIsDirty = true }
        headerIsHeld = false
    }

    mutating func finish() throws(BlockError) {
        guard !isReadOnly else { return }
        try? tidyUp()
        if hasChanges { try commit() }
        try closeLastGaps()
        trim()
    }

    /// Closes the gaps that a failed write or a crash left. If this fails, blocks stay leaked.
    private mutating func closeLastGaps() throws(BlockError) {
        guard isSound else { return }
        let survey = VdiSurvey(map: map, count: header.allocatedCount)
        guard survey.unusedCount > 0, survey.findings.count == 0 else { return }
        try? closeGaps(survey)
        if hasChanges { try commit() }
    }

    mutating func writeHeader() throws(BlockError) {
        let bytes = header.serialised()
        try file.write(bytes.span.bytes, at: 0)
        header.bytes = bytes
        headerIsDirty = false
    }
}
