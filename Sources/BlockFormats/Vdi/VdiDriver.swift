import BlockCore

/// VirtualBox's disk images (VDI): dynamic, static and differencing.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock. A differencing image names its parent by UUID only, so the caller names the file, as
/// `backing.file.filename`.
public final class VdiDriver: SessionFormat, BackingChecking, ParentIdentifying {
    public static let name = "vdi"

    let file: BlockNode
    let blockBytes: Int
    let session: Session<VdiState>

    private init(_ state: VdiState) {
        file = state.file
        blockBytes = state.header.blockBytes
        session = Session(state)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let signature: UInt32? = header.littleEndian(at: Vdi.signatureOffset)
        return signature == Vdi.signature ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`; `io`.
    public static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> VdiDriver
    {
        do throws(BlockError) {
            let settings = request.settings
            let bytes = try request.file.readBytes(
                at: 0, count: min(Vdi.sectorBytes, try request.file.length()))
            let header = try VdiHeader.parse(bytes)
            try checkParent(header, request)
            var state = try VdiState(file: request.file, header: header, isReadOnly: settings.readOnly)
            if !settings.readOnly && !settings.forCheck { try state.prepareForWriting() }
            return VdiDriver(state)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    /// Refuses a differencing image without its parent: its unallocated blocks would read as zeroes, and
    /// partial writes would store those.
    private static func checkParent(_ header: VdiHeader, _ request: OpenRequest) throws(BlockError) {
        let settings = request.settings
        guard header.type.hasParent, !request.namesBacking else { return }
        if settings.metadataOnly || settings.withoutBacking || settings.forCheck { return }
        throw BlockError(
            .unsupported,
            "The image is based on another one, with the UUID "
                + "\(ImageUUID(mixedEndian: header.parentUUID).text); name it as 'backing.file.filename'")
    }

    public var parentIdentity: [UInt8] { session.withLock { $0.header.uuid } }

    /// The parent must be the image over which this one was made.
    ///
    /// The check is skipped for a UUID of zeroes and for a backing file of another format, which has none.
    ///
    /// - Throws: `corrupt` for another image.
    public func checkBacking(_ backing: BlockNode) throws(BlockError) {
        guard let found = backing.parentIdentity(of: Self.name) else { return }
        let (isChild, expected) = session.withLock { ($0.header.type.hasParent, $0.header.parentUUID) }
        guard isChild, expected != found, expected.contains(where: { $0 != 0 }) else { return }
        throw BlockError(
            .corrupt,
            "The parent '\(backing.filename)' has the UUID \(ImageUUID(mixedEndian: found).text), not "
                + "\(ImageUUID(mixedEndian: expected).text) as when this image was made over it",
            path: file.filename)
    }

    public var writeGranularity: Int { blockBytes }
    /// Zeroed blocks stay in the map, as holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle { session.withLock { $0.header.type == .fixed } ? [] : .unitsAreWhole }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        let header = session.withLock { $0.header }
        var fields = [
            InfoField("subformat", .text(header.type.name)),
            InfoField("uuid", .text(ImageUUID(mixedEndian: header.uuid).text)),
        ]
        if header.type.hasParent {
            fields.append(InfoField("parent-uuid", .text(ImageUUID(mixedEndian: header.parentUUID).text)))
        }
        return FormatInfo(clusterSizeBytes: blockBytes, specific: fields)
    }
}
