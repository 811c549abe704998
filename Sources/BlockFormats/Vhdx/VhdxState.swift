import BlockCore

/// Headers, tables and log of an open image.
///
/// Not thread-safe: the session's lock guards it. The order of writes:
///
/// 1. The header, with a new GUID of the file before the first change of a session, and a new GUID of the
///    data before the first change of the disk's contents. A flush, under the lock: no other change may
///    overtake it.
/// 2. Guest data; a flush.
/// 3. An entry of the log with the changed pages of the BAT; a flush.
/// 4. The header that names the log, with the session's first entry; a flush.
/// 5. The pages in their places.
///
/// The pages are durable before the next entry, so only the newest entry of the log ever needs a replay.
/// Entries alternate between two halves of the log, so the valid one is never overwritten. Space is reused
/// once the BAT without it is durable. Closing: a flush; the header without the log; only then may the file
/// become shorter.
struct VhdxState: SessionState {
    let file: BlockNode
    let newGUID: @Sendable (String) -> ImageUUID
    /// The parent's name, as of the opening or the last change.
    var backing: BackingReference?
    var headers: VhdxHeaders
    /// The file as it reads after a replay of the log.
    var view: VhdxView
    var regions: VhdxRegions
    /// The numbers of the damaged copies of the region table.
    var damagedRegionTables: [Int]
    var batRange: Range<Int>
    var metadataRange: Range<Int>
    var metadata: VhdxMetadata
    var table: VhdxTable
    var bitmaps = VhdxBitmapCache()
    var space = VhdxSpace()
    /// The length of the file, in bytes.
    var fileBytes: Int
    var isReadOnly: Bool
    /// Set when a repair has dropped entries: the space that they may have referred to stays, also at the end
    /// of the file.
    var keepsTail = false
    /// Whether this session has changed the file.
    private var hasBegun = false
    /// Whether this session has changed the disk's contents, so that the data have their new GUID.
    private var hasChangedData = false
    /// The GUID of the data after their first change in this session, once a caller has asked for it.
    private var plannedDataGUID: ImageUUID?
    /// Set while a job writes data that does not change the disk's contents.
    var keepsIdentity = false
    private var logGUID = Vhdx.noGUID
    private var logSequence: UInt64 = 0
    /// Pages that are durable in the log, but could not be written in place yet.
    private var applying: [VhdxPage] = []
    /// Whether pages of the newest entry are not durable in place.
    private var isUnsettled = false
    /// The durable length of the file at least, in bytes.
    private var durableBytes = 0
    /// Released places to which the tables in the file may still refer.
    private var released: [Range<Int>] = []
    /// The offsets of BAT pages whose space in the file is allocated.
    private var reservedPages: Set<Int> = []
    /// Places that were taken for blocks that read as zeroes, and given back; with their blocks.
    private var zeroPlaces: [Int: Int] = [:]
    var writes: TableWrites?
    /// The state after the changes being written are durable: the file's length, whether the log has a new
    /// entry, and the space that is free.
    private var pending: (fileBytes: Int, hasEntry: Bool, released: [Range<Int>])?

    init(
        file: BlockNode, isReadOnly: Bool, newGUID: @escaping @Sendable (String) -> ImageUUID
    ) throws(BlockError) {
        self.file = file
        self.isReadOnly = isReadOnly
        self.newGUID = newGUID
        headers = try VhdxHeaders(reading: file)
        view = VhdxView(file)
        if headers.current.hasLog {
            let replay = try VhdxLogReplay(file: file, header: headers.current)
            var patches = VhdxPatches()
            patches.fileBytes = replay.neededFileBytes
            try replay.eachChange(
                page: { (bytes, offset) throws(BlockError) in try patches.setPage(bytes, at: offset) },
                zero: { (range) throws(BlockError) in try patches.setZero(range) })
            view.patches = patches
        }
        let log = headers.current.logRange
        (regions, damagedRegionTables) = try VhdxRegions.read(view)
        batRange = try regions.range(of: Vhdx.Region.bat, beside: log)
        metadataRange = try regions.range(of: Vhdx.Region.metadata, beside: log)
        guard metadataRange.upperBound <= (try view.length()) else {
            throw try file.cutError(
                "The VHDX metadata region", end: metadataRange.upperBound, at: metadataRange.lowerBound)
        }
        metadata = try VhdxMetadata(view, region: metadataRange)
        table = VhdxTable(offset: batRange.lowerBound)
        fileBytes = try view.length()
        try checkTableFits()
    }

    private func checkTableFits() throws(BlockError) {
        let bytes = metadata.geometry.entryCount * 8
        guard bytes <= batRange.count else {
            throw BlockError(
                .corrupt,
                "The VHDX BAT is too small: \(batRange.count) bytes for "
                    + "\(metadata.geometry.entryCount) entries")
        }
        guard bytes == 0 || batRange.lowerBound + bytes <= fileBytes else {
            throw try file.cutError(
                "The VHDX BAT", end: batRange.lowerBound + bytes, at: batRange.lowerBound)
        }
    }

    var geometry: VhdxGeometry { metadata.geometry }
    var virtualSize: Int { geometry.virtualSize }
    /// Whether the log holds changes of another session.
    var hasForeignLog: Bool { headers.current.hasLog && !hasBegun }
    var hasChanges: Bool { table.isDirty || !applying.isEmpty }

    mutating func entry(ofBlock block: Int) throws(BlockError) -> UInt64 {
        try table.entry(geometry.entryIndex(ofBlock: block), view)
    }

    mutating func setEntry(ofBlock block: Int, to value: UInt64) throws(BlockError) {
        try table.set(geometry.entryIndex(ofBlock: block), to: value, view)
    }

    // MARK: Session

    /// Replays the log, and surveys the BAT: shared and damaged blocks must not be written to.
    mutating func prepareForWriting() throws(BlockError) {
        guard headers.current.logBytes >= Vhdx.unitBytes else {
            throw BlockError(.unsupported, "The VHDX image has no log, and cannot be written to")
        }
        try replayLog()
        let survey = try VhdxSurvey(&self)
        guard survey.findings.count == 0 else {
            throw BlockError(
                .corrupt, "The image's BAT is damaged; it can be read, and repaired with 'check -r all'")
        }
        space = survey.space
        fileBytes = max(fileBytes, space.endOffset)
    }

    /// Gives the file its new GUID before the first change of this session that keeps the disk's contents.
    mutating func beginChanges() throws(BlockError) {
        guard !hasBegun else { return }
        var header = headers.current
        header.fileWriteGUID = newGUID("vhdx file write \(header.sequence)")
        try headers.replace(with: header, in: file)
        hasBegun = true
    }

    /// Gives the data their new GUID, by which children identify them, before the first change of this
    /// session to the disk's contents or size.
    mutating func beginDataChanges() throws(BlockError) {
        if keepsIdentity { return try beginChanges() }
        guard !hasChangedData else { return }
        var header = headers.current
        if !hasBegun { header.fileWriteGUID = newGUID("vhdx file write \(header.sequence)") }
        header.dataWriteGUID = nextDataGUID()
        try headers.replace(with: header, in: file)
        hasBegun = true
        hasChangedData = true
    }

    /// The GUID of the data after their next change. All changes of a session share one.
    mutating func nextDataGUID() -> ImageUUID {
        let current = headers.current
        if hasChangedData { return current.dataWriteGUID }
        let next = plannedDataGUID ?? newGUID("vhdx data write \(current.sequence)")
        plannedDataGUID = next
        return next
    }

    /// Makes all changes durable, in the order above.
    mutating func commit() throws(BlockError) {
        try finishWrites()
        try settle()
        while table.isDirty {
            let changes = table.changes(atMost: VhdxLogEntry.pagesAtMost)
            try log(changes)
            // Pages that only the log holds stay in memory too, as changes to be written again.
            if applying.isEmpty { table.written(changes) } else if table.dirtyCount == changes.count { break }
            if table.isDirty { try settle() }
        }
        freeReleased()
    }

    /// In the same order as ``commit()``. The first entry of a session, which changes the header too, and
    /// pages for more than one entry are written with the lock held.
    mutating func takeChanges() throws(BlockError) -> TableWrites? {
        guard applying.isEmpty, table.dirtyCount <= VhdxLogEntry.pagesAtMost,
            !table.isDirty || (logSequence > 0 && headers.current.hasLog)
        else {
            try commit()
            return nil
        }
        pending = (try file.length(), table.isDirty, released)
        released = []
        guard table.isDirty else { return TableWrites([], to: file) }
        let pages = table.takeChanges()
        let (place, entry) = nextEntry(pages)
        let log = TableWrites.Part(offset: headers.current.logOffset + place, bytes: entry.bytes.array)
        let parts = pages.map { TableWrites.Part(offset: $0.offset, bytes: $0.bytes) }
        return TableWrites([TableWrites.Step(parts: [log]), TableWrites.Step(parts: parts)], to: file)
    }

    mutating func settle(failed: Bool) {
        guard let pending else { return }
        self.pending = nil
        table.settle(failed: failed)
        if failed {
            released = pending.released + released
            return
        }
        durableBytes = pending.fileBytes
        isUnsettled = false
        if pending.hasEntry { logSequence += 1 }
        let waiting = released
        released = pending.released
        freeReleased()
        released = waiting
    }

    /// The next entry of the log and its place there.
    private func nextEntry(_ pages: [VhdxPage]) -> (place: Int, entry: AlignedBuffer) {
        let place = logSequence % 2 == 0 ? 0 : Vhdx.unitBytes / 2
        let entry = VhdxLogEntry.make(
            pages, sequence: logSequence + 1, at: place, guid: logGUID,
            flushed: durableBytes.roundedDown(to: Vhdx.unitBytes), needed: space.endOffset)
        return (place, entry)
    }

    /// Makes guest data durable, and writes the pages that only the log holds in place.
    mutating func settle() throws(BlockError) {
        try apply()
        // Read before the flush: other requests may extend the file meanwhile.
        let length = try file.length()
        try file.flush()
        durableBytes = length
        isUnsettled = false
    }

    /// Changes pages of the file atomically and durably. The changes before them must be durable already.
    ///
    /// - Parameter pages: at most ``VhdxLogEntry/pagesAtMost``.
    mutating func log(_ pages: [VhdxPage]) throws(BlockError) {
        try beginChanges()
        if isUnsettled { try settle() }
        let header = headers.current
        guard header.logBytes >= Vhdx.unitBytes else {
            throw BlockError(.unsupported, "The VHDX image has no log, and cannot be written to")
        }
        if logSequence == 0 { logGUID = newGUID("vhdx log \(header.sequence)") }
        let (place, entry) = nextEntry(pages)
        try file.write(entry.bytes, at: header.logOffset + place)
        try file.flush()
        if !header.hasLog {
            var next = header
            next.logGUID = logGUID
            try headers.replace(with: next, in: file)
        }
        logSequence += 1
        applying = pages
        isUnsettled = true
        // The log entry is durable, so the change has happened. Pages that cannot be written in place now are
        // written by the next `settle()`, before the log is reused.
        try? apply()
    }

    private mutating func apply() throws(BlockError) {
        var first = 0
        while first < applying.count {
            var last = first + 1
            var bytes = applying[first].bytes
            while last < applying.count, applying[last].offset == applying[first].offset + bytes.count {
                bytes += applying[last].bytes
                last += 1
            }
            try file.write(bytes.span.bytes, at: applying[first].offset)
            first = last
        }
        applying = []
    }

    // MARK: Space

    /// Allocates the space of the log and of the page of a block's entry: a full disk must refuse the request
    /// before the block is written.
    mutating func reserve(block: Int) throws(BlockError) {
        let page = geometry.entryIndex(ofBlock: block) / VhdxTable.entriesPerPage
        let start = batRange.lowerBound + page * Vhdx.pageBytes
        guard !reservedPages.contains(start) else { return }
        if reservedPages.isEmpty { try file.fillHoles(in: headers.current.logRange) }
        try file.fillHoles(in: start..<min(start + Vhdx.pageBytes, batRange.upperBound))
        reservedPages.insert(start)
    }

    /// Gives back a place without a reference.
    mutating func giveBack(_ host: Int, ofZeroBlock block: Int?) {
        space.release(host..<host + geometry.blockBytes)
        if let block { zeroPlaces[block] = host }
    }

    /// Links unused gaps, as holes, to blocks that read as zeroes, so that they are no leaks. The next
    /// session uses the rest.
    private mutating func fillGaps() throws(BlockError) {
        defer { zeroPlaces = [:] }
        for (block, host) in zeroPlaces {
            let range = host..<host + geometry.blockBytes
            guard range.upperBound <= space.endOffset, space.isFree(range) else { continue }
            switch try kind(try entry(ofBlock: block), block: block) {
            case .stored, .partial: continue
            case .zero, .absent: break
            }
            try file.writeZeroes(at: host, count: range.count)
            if table.isCrowded { try commit() }
            try reserve(block: block)
            try setEntry(ofBlock: block, to: Vhdx.entry(.fullyPresent, at: host))
            space.take(range)
        }
    }

    /// Takes space for a block.
    mutating func allocate(_ bytes: Int) throws(BlockError) -> Int {
        let offset = try space.allocate(bytes)
        fileBytes = max(fileBytes, space.endOffset)
        return offset
    }

    /// Gives back a place after the next commit, when no valid table refers to it. Its entry must be cleared
    /// before this call.
    mutating func release(_ range: Range<Int>) { released.append(range) }

    private mutating func freeReleased() {
        for range in released {
            space.release(range)
            try? file.discard(at: range.lowerBound, count: range.count)
        }
        released = []
    }

    // MARK: Ends

    /// Writes all changes, and empties the log.
    mutating func finish() throws(BlockError) {
        guard !isReadOnly, hasBegun else { return }
        try? fillGaps()
        if hasChanges || !released.isEmpty { try commit() }
        if headers.current.hasLog {
            try settle()
            var header = headers.current
            header.logGUID = Vhdx.noGUID
            // Written twice, so that both copies are equal.
            try headers.replace(with: header, in: file)
            try headers.replace(with: header, in: file)
            table.forgetChanges()
        }
        hasBegun = false
        hasChangedData = false
        plannedDataGUID = nil
        logSequence = 0
        try trim()
    }

    /// Cuts unused space off the end of the file.
    private func trim() throws(BlockError) {
        guard space.endOffset > 0, !keepsTail else { return }
        var needed = space.endOffset
        if metadata.leavesBlocksAllocated {
            // A fixed image keeps the space for all of its blocks.
            let parts = Vhdx.unitBytes + headers.current.logBytes + batRange.count + metadataRange.count
            needed = max(needed, parts + geometry.blockCount * geometry.blockBytes)
        }
        if try file.length() > needed { try file.resize(to: needed) }
    }

    /// Replays the log and empties it. After a crash in between, the replay is repeated.
    mutating func replayLog() throws(BlockError) {
        guard headers.current.hasLog else { return }
        let replay = try VhdxLogReplay(file: file, header: headers.current)
        try beginChanges()
        try replay.eachChange(
            page: { (bytes, offset) throws(BlockError) in try file.write(bytes.span.bytes, at: offset) },
            zero: { (range) throws(BlockError) in
                if !range.isEmpty { try file.writeZeroes(at: range.lowerBound, count: range.count) }
            })
        if try file.length() < replay.neededFileBytes { try file.resize(to: replay.neededFileBytes) }
        try file.flush()
        var header = headers.current
        header.logGUID = Vhdx.noGUID
        try headers.replace(with: header, in: file)
        let (isReadOnly, backing) = (isReadOnly, backing)
        self = try VhdxState(file: file, isReadOnly: isReadOnly, newGUID: newGUID)
        self.backing = backing
    }
}
