import BlockCore

/// Hyper-V's disk images (VHDX): dynamic, fixed and differencing.
///
/// Lock order: the node's range, then the session's lock, then the file's own. Data is read and written
/// outside the lock.
public final class VhdxDriver: SessionFormat {
    public static let name = "vhdx"

    let file: BlockNode
    let blockBytes: Int
    let session: Session<VhdxState>
    let request: OpenRequest

    private init(_ state: VhdxState, _ request: OpenRequest) {
        file = state.file
        blockBytes = state.geometry.blockBytes
        self.request = request
        session = Session(state)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.number64(0) == Vhdx.signatureNumber ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`; `io`.
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
            state.backing = try findParent(state, request)
            if !settings.metadataOnly && !settings.forCheck { try state.checkRepeats() }
            if !settings.readOnly && !settings.forCheck { try state.prepareForWriting() }
            return VhdxDriver(state, request)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    /// Requests on one block run concurrently; only the first write to a block excludes others.
    public var writeGranularity: Int { 1 }
    /// Zeroed parts of blocks become holes of the file.
    public var dataMayBeHoles: Bool { true }

    /// Parts of stored blocks are zeroed in place.
    public var zeroGranularity: Int { Vhdx.smallestSectorBytes }
    public var discardGranularity: Int { Vhdx.smallestSectorBytes }
    /// Unallocated blocks of an image without a parent are marked as zero when it gets a parent.
    public var marksZeroes: Bool { true }

    /// - Throws: `io`, `corrupt`.
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        let (extent, view) = try session.withLock { (state) throws(BlockError) in
            (try state.mapped(at: offset, limit: count), state.view)
        }
        guard case .data(let host) = extent.status, extent.length == count else {
            throw BlockError(.io, "Input/output error", path: file.filename, offset: offset)
        }
        let end = host + count
        guard try view.length() >= end else { throw try file.cutError(end: end, at: host) }
        try file.read(into: &buffer, at: host)
        view.patches.apply(to: &buffer, at: host)
    }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        session.withLock { state in
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
