import BlockCore

/// Header and block map of an open image. Used under the driver's lock.
///
/// The order of writes: data; the header, whose count of blocks covers them; a flush; the map that refers to
/// them; a flush. Other programs append where the count says, so that the count must never be too low. Killed
/// anywhere, the worst is a count that is too high: a leaked block, which is taken again later. When the
/// image is closed, gaps are closed and the count is that of the entries, as QEMU's check wants it: after
/// copies, a flush, the map, a flush, the count, a flush, the length of the file.
struct VdiState: SessionState {
    let file: BlockNode
    var header: VdiHeader
    var map: BlockTable
    var isReadOnly: Bool
    var headerIsDirty = false
    /// Blocks of the data area that the header counts and no entry refers to.
    var spare = SpareBlocks(survey: nil)
    /// Whether the map was looked through, so that it may be written to.
    private var isSound = false
    var writes: TableWrites?
    /// Whether the header is among what is being written.
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

    /// Sizes are shown in whole sectors.
    var virtualSize: Int {
        min(
            header.virtualSize.roundedUp(to: Vdi.sectorBytes) ?? header.virtualSize,
            header.blockCount * header.blockBytes)
    }

    /// Looks through the map before the first change: what is shared or not counted must not be written to.
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

    /// Takes a block of the data area. It is not in the map until it is linked.
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

    /// Gives back a block that the map never referred to. The last blocks are not counted any more.
    ///
    /// - Parameter block: what it was taken for, where that reads as zeroes.
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

    /// Lets blocks that read as zeroes have what is left between others, as holes; and cuts off what lies
    /// behind the last block. Where either fails, space is left that the next writer takes.
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

    /// Makes everything durable, in the order above.
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

    /// Closes what a failed write or a killed program left over. Where this fails, blocks stay leaked.
    private mutating func closeLastGaps() throws(BlockError) {
        guard isSound else { return }
        let survey = VdiSurvey(map: map, count: header.allocatedCount)
        guard survey.unusedCount > 0, survey.findingCount == 0 else { return }
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
