import BlockCore
import Synchronization

/// VirtualBox's disk images (VDI): dynamic, static and differencing.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock. A differencing image names its parent by UUID only, so the caller names the file, as
/// `backing.file.filename`.
public final class VdiDriver: SessionFormat, BackingChecking, ParentIdentifying {
    public static let name = "vdi"

    let file: BlockNode
    let blockBytes: Int
    let state: Monitor<VdiState>
    private let size: Atomic<Int>

    private init(_ state: VdiState) {
        file = state.file
        blockBytes = state.header.blockBytes
        size = Atomic(Self.shownSize(state.header))
        self.state = Monitor(state)
    }

    /// Sizes are shown in whole sectors.
    static func shownSize(_ header: VdiHeader) -> Int {
        min(
            header.virtualSize.roundedUp(to: Vdi.sectorBytes) ?? header.virtualSize,
            header.blockCount * header.blockBytes)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let signature: UInt32? = header.littleEndian(at: Vdi.signatureOffset)
        return signature == Vdi.signature ? 100 : 0
    }

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

    /// Without its parent, a differencing image would read, and be completed by writes, as zeroes.
    private static func checkParent(_ header: VdiHeader, _ request: OpenRequest) throws(BlockError) {
        let settings = request.settings
        guard header.type.hasParent, !request.namesBacking else { return }
        if settings.metadataOnly || settings.withoutBacking || settings.forCheck { return }
        throw BlockError(
            .unsupported,
            "The image is based on another one, with the UUID "
                + "\(ImageUUID(mixedEndian: header.parentUUID).text); name it as 'backing.file.filename'")
    }

    public var parentIdentity: [UInt8] { state.withLock { $0.header.uuid } }

    /// The parent must be the image over which this one was made. An UUID of zeroes states nothing, and
    /// another format has none; whoever names such a file knows why.
    public func checkBacking(_ backing: BlockNode) throws(BlockError) {
        guard let found = backing.parentIdentity(of: Self.name) else { return }
        let (isChild, expected) = state.withLock { ($0.header.type.hasParent, $0.header.parentUUID) }
        guard isChild, expected != found, expected.contains(where: { $0 != 0 }) else { return }
        throw BlockError(
            .corrupt,
            "The parent '\(backing.filename)' has the UUID \(ImageUUID(mixedEndian: found).text), not "
                + "\(ImageUUID(mixedEndian: expected).text) as when this image was made over it",
            path: file.filename)
    }

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    public var writeGranularity: Int { blockBytes }
    /// Zeroed blocks stay in the map, as holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle { state.withLock { $0.header.type == .fixed } ? [] : .unitsAreWhole }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }

    // MARK: Mapping

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        state.withLock { state in
            let first = offset / blockBytes
            let inside = offset % blockBytes
            guard first < state.map.count else { return Extent(.zero(hostOffset: nil), length: limit) }
            let entry = state.map[first]
            var end = first + 1
            while end < state.map.count, (end - first) * blockBytes - inside < limit,
                continues(state.map[end], entry, by: end - first, state.header)
            {
                end += 1
            }
            let length = min(limit, (end - first) * blockBytes - inside)
            return Extent(status(entry, inside, state.header), length: length)
        }
    }

    /// Whether an entry `distance` blocks on continues a run.
    private func continues(_ next: UInt32, _ entry: UInt32, by distance: Int, _ header: VdiHeader) -> Bool {
        guard entry < Vdi.discarded else { return next == entry }
        return next < Vdi.discarded && header.blockExtraBytes == 0 && Int(next) == Int(entry) + distance
    }

    private func status(_ entry: UInt32, _ inside: Int, _ header: VdiHeader) -> Extent.Status {
        switch entry {
        case Vdi.unallocated: header.type.hasParent ? .unallocated : .zero(hostOffset: nil)
        case Vdi.discarded: .zero(hostOffset: nil)
        default: .data(hostOffset: header.hostOffset(ofBlock: Int(entry)) + inside)
        }
    }

    public func describe() throws(BlockError) -> FormatInfo {
        let header = state.withLock { $0.header }
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
