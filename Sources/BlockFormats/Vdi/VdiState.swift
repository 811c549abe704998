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
    /// Blocks that are being filled; whoever changes the whole map waits until there are none.
    var fillsInFlight = 0
    var isAtRest: Bool { fillsInFlight == 0 }
    /// Whether the map was looked through, so that it may be written to.
    private var isSound = false

    init(file: BlockNode, header: VdiHeader, isReadOnly: Bool) throws(BlockError) {
        self.file = file
        self.header = header
        self.isReadOnly = isReadOnly
        guard header.mapOffset + header.blockCount * 4 <= (try file.length()) else {
            throw BlockError(.corrupt, "The block map is beyond the end of the file")
        }
        map = try BlockTable(
            reading: file, at: header.mapOffset, count: header.blockCount, isBigEndian: false)
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

    /// Takes a block of the data area. It is not in the map until ``link(_:to:)``.
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

    /// Points the map to a block whose data is in the file.
    mutating func link(_ block: Int, to index: UInt32) { map[block] = index }

    /// Gives back a block that the map never referred to.
    mutating func giveBack(_ index: UInt32) { spare.returned.append(index) }

    var hasChanges: Bool { headerIsDirty || map.isDirty }

    /// Makes everything durable, in the order above.
    mutating func commit() throws(BlockError) {
        if headerIsDirty { try writeHeader() }
        try file.flush()
        guard map.isDirty else { return }
        try map.write(to: file)
        try file.flush()
    }

    mutating func finish() throws(BlockError) {
        guard !isReadOnly else { return }
        if hasChanges { try commit() }
        guard isSound else { return }
        let survey = VdiSurvey(map: map, count: header.allocatedCount)
        guard survey.unusedCount > 0, survey.findingCount == 0 else { return }
        // Blocks that a failed write or a killed program left over. Where this fails, they stay leaked.
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
