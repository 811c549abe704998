import BlockCore
import Synchronization

/// Parallels' expandable disk images (`.hds`), of both kinds.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock. An image names no backing file; where the caller names one (`backing.file.filename`), it
/// has what is not allocated.
public final class ParallelsDriver: LegacySessionFormat {
    public static let name = "parallels"

    let file: BlockNode
    let clusterBytes: Int
    let hasBacking: Bool
    let state: Monitor<ParallelsState>
    /// Whether bitmaps want to hear of changes.
    let isRecording: Atomic<Bool>
    private let size: Atomic<Int>

    private init(_ state: ParallelsState, hasBacking: Bool) {
        file = state.file
        clusterBytes = state.header.clusterBytes
        self.hasBacking = hasBacking
        size = Atomic(state.header.virtualSize)
        isRecording = Atomic(!state.isReadOnly && state.features.hasUsableBitmaps)
        self.state = Monitor(state)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        ParallelsHeader.kind(header) == nil ? 0 : 100
    }

    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> ParallelsDriver {
        do throws(BlockError) {
            let settings = request.settings
            let growth = try ParallelsGrowth.take(&options)
            var state = try ParallelsState(file: request.file, isReadOnly: settings.readOnly)
            state.growth = growth
            if !settings.readOnly && !settings.forCheck { try state.prepareForWriting() }
            return ParallelsDriver(state, hasBacking: request.namesBacking)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    public var writeGranularity: Int { clusterBytes }
    /// Zeroed clusters may be holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle { .unitsAreWhole }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }

    // MARK: Mapping

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        state.withLock { state in
            let first = offset / clusterBytes
            let inside = offset % clusterBytes
            let wanted = (inside + limit - 1) / clusterBytes + 1
            guard first < state.table.count else { return Extent(.unallocated, length: limit) }
            let count = state.runLength(at: first, atMost: wanted)
            let length = min(limit, count * clusterBytes - inside)
            let entry = state.table[first]
            if entry == Parallels.unallocated { return Extent(.unallocated, length: length) }
            return Extent(.data(hostOffset: state.layout.hostOffset(entry) + inside), length: length)
        }
    }

    // MARK: Life

    func modeChanged(_ state: ParallelsState) {
        isRecording.store(!state.isReadOnly && state.features.hasUsableBitmaps, ordering: .releasing)
    }

    public func describe() throws(BlockError) -> FormatInfo {
        let (isDirty, kind) = state.withLock { ($0.isUnclean, $0.header.kind) }
        var fields = [InfoField("magic", .text(kind.rawValue))]
        let list = try bitmaps().map { bitmap in
            InfoValue.object([
                InfoField("flags", .list(bitmap.isInconsistent ? [.text("in-use")] : [.text("auto")])),
                InfoField("name", .text(bitmap.name)), InfoField("granularity", .number(bitmap.granularity)),
            ])
        }
        if !list.isEmpty { fields.append(InfoField("bitmaps", .list(list))) }
        return FormatInfo(isDirty: isDirty, specific: fields)
    }
}

extension ParallelsState {
    /// How many blocks from `first` on are unallocated, or allocated one behind the other.
    func runLength(at first: Int, atMost most: Int) -> Int {
        let entry = table[first]
        let step = entry == Parallels.unallocated ? 0 : UInt32(layout.clusterBytes / layout.entryUnit)
        let end = first + min(most, table.count - first)
        var expected = entry
        var block = first + 1
        while block < end {
            expected &+= step
            guard table[block] == expected, expected != Parallels.unallocated || step == 0 else { break }
            block += 1
        }
        return block - first
    }
}
