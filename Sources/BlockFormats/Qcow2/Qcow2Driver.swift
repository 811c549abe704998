import BlockCore
import Synchronization

/// QEMU's qcow2 images, versions 2 and 3 (docs/interop/qcow2.rst).
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read, written and
/// (de)compressed outside the lock. Operations on whole tables (snapshots, resizing, checks) wait until every
/// granted cluster is linked or given back, and hold the lock until they are done.
public final class Qcow2Driver: SessionFormat {
    public static let name = "qcow2"
    public static let optionsInName = ["encrypt.key-secret"]

    let file: BlockNode
    /// The file that holds the guest's plain data.
    let data: GuestData
    private let firstLayout: Qcow2Layout
    /// The parts of the layout that amending changes: version and refcount order.
    private let amendable: Atomic<Int>
    /// The tables, under the lock.
    let metadata: Session<Qcow2State>
    var session: Session<Qcow2State> { metadata }
    /// Whether discards of the guest are passed on to the file.
    let discardUnmaps: Bool
    /// The LUKS header, where the image has one. Locked last, after the tables.
    let luks: Mutex<LuksVolume?>
    let isEncrypted: Bool
    /// Records changes for the enabled bitmaps.
    let changes = Qcow2ChangeRecorder()
    /// 0: not known yet; 1: no; 2: yes.
    private let holesBehindData = Atomic<Int>(0)
    /// Whether the file was found to be cut. 0: not known yet; 1: no; 2: yes.
    let cutState = Atomic<Int>(0)
    /// Drops cached tables that are not in use; `nil` unless `cache-clean-interval` is set.
    let cleaner = Mutex<RepeatingTimer?>(nil)

    private init(_ tables: Qcow2State, _ luks: LuksVolume?, discardUnmaps: Bool) {
        self.luks = Mutex(luks)
        isEncrypted = tables.header.isEncrypted
        file = tables.file
        data = tables.data
        firstLayout = tables.layout
        amendable = Atomic(tables.layout.version << 8 | tables.layout.refcountOrder)
        metadata = Session(tables)
        self.discardUnmaps = discardUnmaps
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        guard let magic: UInt32 = header.bigEndian(at: 0), magic == Qcow2.magic,
            let version: UInt32 = header.bigEndian(at: 4), version >= 2
        else { return 0 }
        return 100
    }

    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> Qcow2Driver {
        do throws(BlockError) {
            let header = try readHeader(request.file)
            try checkSupport(header, request.settings)
            let choice = try Qcow2OpenOptions(&options, header)
            let unlocked = try Qcow2Unlocked(header, request, &options)
            var data =
                try openData(header, request, &options) ?? GuestData(node: request.file, child: 0)
            data.encryption = unlocked.encryption
            let tables = try Qcow2State(
                file: request.file, data: data, header: header, isReadOnly: request.settings.readOnly,
                caches: choice.caches)
            try tables.checkUnwrittenL1()
            if !request.settings.metadataOnly && !request.settings.forCheck {
                let l1 = header.l1Offset..<header.l1Offset + header.l1Entries * 8
                try tables.checkIsWhole("The active L1 table", l1)
                try tables.checkRepeats(tables.l1)
            }
            let driver = Qcow2Driver(
                tables, unlocked.volume, discardUnmaps: request.settings.discardUnmaps)
            driver.use(choice)
            if !request.settings.readOnly && !request.settings.forCheck { try driver.beginWriting() }
            return driver
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    /// Opens the file that holds the guest's data; `nil` for the image's own. `info` reads nothing from it.
    private static func openData(
        _ header: Qcow2Header, _ request: OpenRequest, _ options: inout OptionTree
    ) throws(BlockError) -> GuestData? {
        let role = "data-file"
        let isGiven = options.keys.contains { $0.hasPrefix("\(role).") }
        guard header.incompatible.contains(.dataFile) else {
            guard !isGiven else {
                throw BlockError(
                    .invalidArgument, "'data-file' can only be set for images with an external data file")
            }
            return nil
        }
        guard isGiven || header.dataFileName != nil || request.settings.metadataOnly else {
            throw BlockError(.invalidArgument, "'data-file' is required for this image")
        }
        let opened: BlockNode?
        do throws(BlockError) {
            opened = try request.openChild(
                header.dataFileName ?? "", role: role, purpose: .dataFile, options: &options)
        } catch {
            var failure = error
            failure.path = request.file.filename
            throw failure
        }
        // Without the data file, a child number other than the image's keeps callers from reading the guest's
        // bytes there.
        return GuestData(node: opened ?? request.file, child: 1)
    }

    /// Reads and checks the header with its extensions.
    static func readHeader(_ file: BlockNode) throws(BlockError) -> Qcow2Header {
        let length = try file.length()
        let start: [UInt8]
        do throws(BlockError) { start = try file.readBytes(at: 0, count: min(length, 4096)) } catch {
            throw error.prefixed("Could not read qcow2 header")
        }
        var header = try Qcow2Header.parse(start.span.bytes)
        let clusterSize = 1 << header.clusterBits
        let cluster =
            clusterSize <= start.count ? start : try file.readBytes(at: 0, count: min(length, clusterSize))
        try header.readExtensions(cluster.span.bytes.extracting(0..<min(cluster.count, clusterSize)))
        try header.validate(fileLength: length)
        return header
    }

    /// Refuses to open a damaged image for changes; `info` may still read it.
    private static func checkSupport(_ header: Qcow2Header, _ settings: OpenSettings) throws(BlockError) {
        guard !settings.metadataOnly else { return }
        if header.incompatible.contains(.corrupt) && !settings.readOnly && !settings.forCheck {
            throw BlockError(.corrupt, "qcow2: Image is corrupt; cannot be opened read/write")
        }
    }

    var layout: Qcow2Layout {
        let now = amendable.load(ordering: .relaxed)
        var layout = firstLayout
        layout.version = now >> 8
        layout.refcountOrder = now & 0xff
        return layout
    }

    func setLayout(_ layout: Qcow2Layout) {
        amendable.store(layout.version << 8 | layout.refcountOrder, ordering: .relaxed)
    }

    public var writeGranularity: Int { layout.clusterSize }

    /// Runs `body` on the tables when no write is under way.
    func exclusively<Result>(
        _ body: (Qcow2State) throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        try metadata.exclusively { tables throws(BlockError) -> Result in try body(tables) }
    }

    // MARK: Writable life

    /// Prepares the tables for the first change, and finds out whether bitmaps record changes.
    private func beginWriting() throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            try tables.prepareForWriting()
            changes.arm(tables.layout.version >= 3 ? try tables.bitmapSet().wantsWrites : false)
        }
    }

    /// Counts the refcounts of an image anew that was not closed properly. All other damage is left to a
    /// repair that the user asks for.
    static func repairDirty(_ tables: Qcow2State) throws(BlockError) {
        var lines: [String] = []
        try tables.reachL1()
        let result = try tables.check(.all, isAutomatic: true) { lines.append($0) }
        guard result.corruptions == 0, result.checkErrors == 0 else {
            throw BlockError(
                .corrupt, "qcow2: The image was not closed properly and could not be repaired",
                hint: lines.prefix(3).joined(separator: "\n"))
        }
    }

    public func flush() throws(BlockError) {
        try metadata.flush()
        // Reports damage that was found when references were dropped, once everything is written.
        try metadata.withLock { tables throws(BlockError) in
            if !tables.isReadOnly, let damage = tables.damage { throw damage }
        }
    }

    public func close() throws(BlockError) {
        cleaner.withLock { $0 = nil }
        try metadata.close()
    }

    /// Writes everything to the file that is still only in memory.
    static func finishWriting(_ tables: Qcow2State) throws(BlockError) {
        guard !tables.isReadOnly else { return }
        if tables.hasChanges { try tables.commit() }
        if tables.refcountsAreLazy {
            try tables.writeRefcounts()
            tables.refcountsAreLazy = false
            if !tables.needsRepair { try tables.setDirty(false) }
        }
        if tables.hasUnflushedWrites { try tables.barrier() }
    }

    public func willReopen(readOnly: Bool) throws(BlockError) {
        try metadata.willReopen(readOnly: readOnly)
        if readOnly { changes.arm(false) }
    }

    public func didReopen(readOnly: Bool) throws(BlockError) {
        do throws(BlockError) {
            try metadata.didReopen(readOnly: readOnly)
            if !readOnly {
                changes.arm(
                    try metadata.withLock { tables throws(BlockError) in
                        tables.layout.version >= 3 ? try tables.bitmapSet().wantsWrites : false
                    })
            }
        } catch {
            changes.arm(false)
            throw error
        }
    }

    // MARK: Holes behind data

    public var dataMayBeHoles: Bool {
        let known = holesBehindData.load(ordering: .relaxed)
        if known != 0 { return known == 2 }
        // "Yes" is the safe answer: asking the file about holes costs only time.
        guard let answer = try? estimateHoles() else { return true }
        holesBehindData.store(answer ? 2 : 1, ordering: .relaxed)
        return answer
    }

    private func estimateHoles() throws(BlockError) -> Bool {
        let first = try metadata.withLock { tables throws(BlockError) in try Qcow2HoleEstimate(tables) }
        guard var estimate = first else { return false }
        while true {
            let answer = try metadata.withLock { tables throws(BlockError) -> Bool? in
                try estimate.look(at: try tables.refcounts())
            }
            if let answer { return answer }
        }
    }
}

extension Qcow2State {
    /// Repairs a dirty image before the first change, and clears the autoclear bits of data that this program
    /// does not keep up to date.
    func prepareForWriting() throws(BlockError) {
        guard layout.version >= 3 else { return }
        if header.incompatible.contains(.dirty) { try Qcow2Driver.repairDirty(self) }
        let kept = try keptAutoclear()
        guard header.autoclear != kept else { return }
        header.autoclear = kept
        try writeHeaderFields()
        try barrier()
    }

    /// Stores the bitmaps and all other changes in memory.
    func finish() throws(BlockError) {
        do throws(BlockError) {
            try storingBitmaps { () throws(BlockError) in try Qcow2Driver.finishWriting(self) }
        } catch { throw freeFailure ?? error }
    }

    /// Sets or clears the dirty bit, durably. After a failure the bit counts as clear, so that it is set
    /// again when needed.
    func setDirty(_ isDirty: Bool) throws(BlockError) {
        guard layout.version >= 3, header.incompatible.contains(.dirty) != isDirty else { return }
        if !isDirty { try barrier() }
        if isDirty { header.incompatible.insert(.dirty) } else { header.incompatible.remove(.dirty) }
        do throws(BlockError) {
            try writeHeaderFields()
            try barrier()
        } catch {
            header.incompatible.remove(.dirty)
            throw error
        }
    }

    /// Sets the dirty bit for lazy refcounts, durably, before the first table is written without its
    /// refcounts.
    func beginLazyRefcounts() throws(BlockError) {
        guard header.hasLazyRefcounts, !refcountsAreLazy else { return }
        try setDirty(true)
        refcountsAreLazy = true
    }
}
