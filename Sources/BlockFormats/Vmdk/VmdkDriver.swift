import BlockCore
import Synchronization

/// VMware's virtual disks (VMDK): one file or several, sparse, flat or compressed.
///
/// Lock order: the node's range, then this driver's lock, then the files' own. Data is read, written and
/// compressed outside the lock. The order of writes is told at ``VmdkGrainTables``; before all of them, with
/// the first change after opening, the descriptor gets a new content ID.
public final class VmdkDriver: FormatDriver {
    public static let name = "vmdk"

    let file: BlockNode
    /// `nil` for a new image that is written as a stream.
    let request: OpenRequest?
    let state: Monitor<VmdkState>
    /// The largest grain, in bytes.
    private let grainBytes: Int
    private let size: Atomic<Int>
    private let reference: Mutex<BackingReference?>

    init(_ state: VmdkState, _ file: BlockNode, _ request: OpenRequest? = nil) {
        self.file = file
        self.request = request
        let flat = state.extents.allSatisfy { $0.grainBytes == nil }
        grainBytes = state.extents.compactMap(\.grainBytes).max() ?? (flat ? 1 : Vmdk.sectorBytes)
        size = Atomic(state.virtualSize)
        reference = Mutex(Self.backing(of: state.descriptor?.descriptor))
        self.state = Monitor(state)
    }

    static func backing(of descriptor: VmdkDescriptor?) -> BackingReference? {
        guard let descriptor, let hint = descriptor.parentHint else { return nil }
        return BackingReference(filename: hint, format: name, otherNames: descriptor.otherParents)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let magic: UInt32? = header.littleEndian(at: 0)
        let long: UInt64? = header.littleEndian(at: 0)
        if magic == Vmdk.sparseMagic || magic == Vmdk.cowMagic || long == Vmdk.seSparseMagic { return 100 }
        return VmdkDescriptor.isDescriptor(header) ? 100 : 0
    }

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

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    public var backing: BackingReference? { reference.withLock { $0 } }
    public var writeGranularity: Int { grainBytes }
    /// Zeroed grains stay where they are, as holes of the file; so do those of flat files.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle {
        state.withLock { state in state.extents.allSatisfy { $0.grainBytes != nil } } ? .unitsAreWhole : []
    }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }
    func setBacking(_ backing: BackingReference?) { reference.withLock { $0 = backing } }

    /// Runs `body` when nothing is being written.
    func exclusively<Result>(
        _ body: (inout VmdkState) throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        try state.wait(until: { $0.changesInFlight == 0 }) { (state) throws(BlockError) in
            try state.finishWrites()
            return try body(&state)
        }
    }

    /// The content ID that comes after `old`: by chance, or the same each time where that is asked for.
    func nextCID(after old: UInt32) -> UInt32 {
        Self.cid(request?.newUUID(for: "after \(old)") ?? ImageUUID.make(seed: nil))
    }

    static func cid(_ uuid: ImageUUID) -> UInt32 { uuid.bytes[0..<4].reduce(0) { $0 << 8 | UInt32($1) } }

    // MARK: Mapping

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try state.withLock { (state) throws(BlockError) -> Extent in
            let extent = state.extents[state.extentIndex(at: offset)]
            let most = min(limit, extent.guest.upperBound - offset)
            let inside = offset - extent.guest.lowerBound
            switch extent.content {
            case .zero: return Extent(.zero(hostOffset: nil), length: most)
            case .flat(let start): return Self.data(start + inside, most, extent)
            case .sparse(let tables): return try Self.mapped(tables, inside, most, extent)
            case .seSparse(let tables): return try Self.mapped(tables, inside, most, extent)
            case .stream, .unopened:
                throw BlockError(.unsupported, "The disk cannot be read as it is open", path: file.filename)
            }
        }
    }

    private static func data(_ hostOffset: Int, _ length: Int, _ extent: VmdkExtent) -> Extent {
        guard let child = extent.child else { return Extent(.encoded(compressed: false), length: length) }
        return Extent(.data(hostOffset: hostOffset), length: length, child: child)
    }

    private static func mapped(
        _ tables: VmdkGrainTables, _ offset: Int, _ limit: Int, _ extent: VmdkExtent
    ) throws(BlockError) -> Extent {
        let (grain, inside) = (offset / tables.grainBytes, offset % tables.grainBytes)
        let wanted = (inside + limit - 1) / tables.grainBytes + 1
        let (entry, count) = try tables.run(at: grain, limit: wanted)
        let length = min(limit, count * tables.grainBytes - inside)
        if entry == 0 { return Extent(.unallocated, length: length) }
        guard tables.isPlace(entry) else { return Extent(.zero(hostOffset: nil), length: length) }
        if tables.header.isCompressed { return Extent(.encoded(compressed: true), length: length) }
        return data(Int(entry) * Vmdk.sectorBytes + inside, length, extent)
    }

    private static func mapped(
        _ tables: VmdkSESparse, _ offset: Int, _ limit: Int, _ extent: VmdkExtent
    ) throws(BlockError) -> Extent {
        let (grain, inside) = (offset / tables.grainBytes, offset % tables.grainBytes)
        let wanted = (inside + limit - 1) / tables.grainBytes + 1
        let (place, count) = try tables.run(at: grain, limit: wanted)
        let length = min(limit, count * tables.grainBytes - inside)
        switch place {
        case .none: return Extent(.unallocated, length: length)
        case .zero: return Extent(.zero(hostOffset: nil), length: length)
        case .grain(let host): return data(host + inside, length, extent)
        }
    }

    // MARK: Life

    public func flush() throws(BlockError) {
        try state.flushTables()
    }

    public func close() throws(BlockError) {
        try exclusively { (state) throws(BlockError) in
            var failures = FirstFailure()
            if !state.isReadOnly { failures.note { () throws(BlockError) in try state.finish() } }
            try? state.settleDescriptor()
            for file in state.ownFiles + state.doubtfulFiles {
                failures.note { () throws(BlockError) in try file.close() }
            }
            state.ownFiles = []
            state.doubtfulFiles = []
            try failures.throwFirst()
        }
    }

    public func willReopen(readOnly: Bool) throws(BlockError) {
        try exclusively { (state) throws(BlockError) in
            if readOnly {
                try state.finish()
                try state.settleDescriptor()
                state.isReadOnly = true
            } else {
                try VmdkOpening.checkWritable(state)
            }
        }
    }

    public func didReopen(readOnly: Bool) throws(BlockError) {
        guard !readOnly else { return }
        try exclusively { (state) throws(BlockError) in
            state.isReadOnly = false
            state.forgetIdentity()
        }
    }
}
