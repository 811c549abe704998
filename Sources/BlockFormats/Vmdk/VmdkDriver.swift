import BlockCore

/// VMware's virtual disks (VMDK): one file or several, sparse, flat or compressed.
///
/// Lock order: the node's range, then the session's lock, then the files' own. Data is read, written and
/// compressed outside the lock.
public final class VmdkDriver: SessionFormat {
    public static let name = "vmdk"

    let file: BlockNode
    /// `nil` for a new image that is written as a stream.
    let request: OpenRequest?
    let session: Session<VmdkState>
    /// The largest grain, in bytes.
    private let grainBytes: Int

    init(_ state: VmdkState, _ file: BlockNode, _ request: OpenRequest? = nil) {
        self.file = file
        self.request = request
        let flat = state.extents.allSatisfy { $0.grainBytes == nil }
        grainBytes = state.extents.compactMap(\.grainBytes).max() ?? (flat ? 1 : Vmdk.sectorBytes)
        var state = state
        state.nextCID = { Self.nextCID(after: $0, request) }
        session = Session(state)
    }

    /// The content ID that follows `old`: random, or reproducible if the request asks for that.
    private static func nextCID(after old: UInt32, _ request: OpenRequest?) -> UInt32 {
        cid(request?.newUUID(for: "after \(old)") ?? ImageUUID.make(seed: nil))
    }

    static func cid(_ uuid: ImageUUID) -> UInt32 { uuid.bytes[0..<4].reduce(0) { $0 << 8 | UInt32($1) } }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let magic: UInt32? = header.littleEndian(at: 0)
        let long: UInt64? = header.littleEndian(at: 0)
        if magic == Vmdk.sparseMagic || magic == Vmdk.cowMagic || long == Vmdk.seSparseMagic { return 100 }
        return VmdkDescriptor.isDescriptor(header) ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `corrupt`, `unsupported`, `limit`, `notFound`, `denied`, `readOnly`; `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> VmdkDriver {
        do throws(BlockError) {
            var opening = VmdkOpening(request)
            return VmdkDriver(try opening.open(&options), request.file, request)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var writeGranularity: Int { grainBytes }
    public var zeroGranularity: Int { min(writeGranularity, Vmdk.sectorBytes) }
    public var marksZeroes: Bool { session.withLock { $0.marksZeroes } }
    /// Zeroed grains and flat files keep their places, as holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle {
        let areGrains = session.withLock { state in state.extents.allSatisfy { $0.grainBytes != nil } }
        return areGrains ? .unitsAreWhole : []
    }
}
