import BlockCore
import Synchronization

/// Hyper-V's disk images (VHDX): dynamic, fixed and differencing.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock.
public final class VhdxDriver: LegacySessionFormat {
    public static let name = "vhdx"

    let file: BlockNode
    let blockBytes: Int
    let state: Monitor<VhdxState>
    let request: OpenRequest
    private let size: Atomic<Int>
    /// The parent's name, as it was when the image was opened or since changed.
    let parent: Mutex<BackingReference?>

    private init(_ state: VhdxState, _ request: OpenRequest, parent: BackingReference?) {
        file = state.file
        blockBytes = state.geometry.blockBytes
        size = Atomic(state.geometry.virtualSize)
        self.request = request
        self.parent = Mutex(parent)
        self.state = Monitor(state)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.number64(0) == Vhdx.signatureNumber ? 100 : 0
    }

    public static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError)
        -> VhdxDriver
    {
        do throws(BlockError) {
            let settings = request.settings
            let start = try request.file.readBytes(at: 0, count: Vhdx.signature.count)
            guard start == Vhdx.signature else {
                throw BlockError(.wrongFormat, "Image not in VHDX format")
            }
            var state = try VhdxState(
                file: request.file, isReadOnly: settings.readOnly, newGUID: { request.newUUID(for: $0) })
            let parent = try findParent(state, request)
            if !settings.metadataOnly && !settings.forCheck { try state.checkRepeats() }
            if !settings.readOnly && !settings.forCheck { try state.prepareForWriting() }
            return VhdxDriver(state, request, parent: parent)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    public var backing: BackingReference? { parent.withLock { $0 } }
    /// Requests on one block get on with each other; only its first filling is done alone.
    public var writeGranularity: Int { 1 }
    /// Zeroed parts of blocks become holes of the file.
    public var dataMayBeHoles: Bool { true }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }

    // MARK: Mapping

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try state.withLock { (state) throws(BlockError) in
            let extent = try state.extent(at: offset, limit: limit)
            // What only the log has so far, the driver reads itself.
            guard case .data(let host) = extent.status,
                try state.needsLog(host..<host + extent.length)
            else { return extent }
            return Extent(.encoded(compressed: false), length: extent.length)
        }
    }

    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        let (extent, view) = try state.withLock { (state) throws(BlockError) in
            (try state.extent(at: offset, limit: count), state.view)
        }
        guard case .data(let host) = extent.status, extent.length == count else {
            throw BlockError(.io, "Input/output error", path: file.filename, offset: offset)
        }
        let end = host + count
        guard try view.length() >= end else { throw try file.cutError(end: end, at: host) }
        try file.read(into: &buffer, at: host)
        view.patches.apply(to: &buffer, at: host)
    }

    public func describe() throws(BlockError) -> FormatInfo {
        state.withLock { state in
            let metadata = state.metadata
            let subformat =
                metadata.geometry.hasParent
                ? "differencing" : metadata.leavesBlocksAllocated ? "fixed" : "dynamic"
            return FormatInfo(
                clusterSizeBytes: metadata.geometry.blockBytes, isDirty: state.headers.current.hasLog,
                specific: [
                    InfoField("subformat", .text(subformat)),
                    InfoField("log-size", .number(state.headers.current.logBytes)),
                    InfoField("logical-sector-size", .number(metadata.geometry.sectorBytes)),
                    InfoField("physical-sector-size", .number(metadata.physicalSectorBytes)),
                    InfoField("disk-id", .text(metadata.diskID.text)),
                ])
        }
    }
}

extension VhdxState {
    /// Whether bytes of the file are what the log makes of them: also those by which it makes the file
    /// longer.
    fileprivate func needsLog(_ range: Range<Int>) throws(BlockError) -> Bool {
        let patches = view.patches
        if !patches.isEmpty, patches.overlap(range) { return true }
        guard range.lowerBound < patches.fileBytes else { return false }
        return try file.storedCount(at: range.lowerBound, count: range.count) < range.count
    }

    /// Replays the log, and looks through the BAT: what is shared or damaged must not be written to.
    mutating func prepareForWriting() throws(BlockError) {
        guard headers.current.logBytes >= Vhdx.unitBytes else {
            throw BlockError(.unsupported, "The VHDX image has no log, and cannot be written to")
        }
        try replayLog()
        let survey = try VhdxSurvey(&self)
        guard survey.findingCount == 0 else {
            throw BlockError(
                .corrupt, "The image's BAT is damaged; it can be read, and repaired with 'check -r all'")
        }
        space = survey.space
        fileBytes = max(fileBytes, space.endOffset)
    }
}
