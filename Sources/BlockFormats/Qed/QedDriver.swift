import BlockCore
import Synchronization

/// QEMU's QED images (docs/interop/qed_spec.rst).
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock.
public final class QedDriver: LegacySessionFormat {
    public static let name = "qed"

    let file: BlockNode
    let clusterBytes: Int
    let tables: Monitor<QedTables>
    var state: Monitor<QedTables> { tables }
    private let size: Atomic<Int>
    private let reference: Mutex<BackingReference?>

    private init(_ tables: QedTables) {
        file = tables.file
        clusterBytes = tables.header.clusterBytes
        size = Atomic(tables.header.virtualSize)
        reference = Mutex(tables.header.backing)
        self.tables = Monitor(tables)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let magic: UInt32? = header.littleEndian(at: 0)
        return magic == Qed.magic ? 100 : 0
    }

    public static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> QedDriver
    {
        do throws(BlockError) {
            let file = request.file
            let length = try file.length()
            var header = try QedHeader.parse(
                try file.readBytes(at: 0, count: min(length, Qed.headerBytes)), fileLength: length)
            if header.features & Qed.Feature.backingFile != 0 {
                let name = try file.readBytes(at: header.backingOffset, count: header.backingBytes)
                header.backing = BackingReference(
                    filename: String(raw: name),
                    format: header.features & Qed.Feature.backingIsRaw != 0 ? RawDriver.name : nil)
            }
            let settings = request.settings
            let tables = try QedTables(file: file, header: header, isReadOnly: settings.readOnly)
            if !settings.metadataOnly && !settings.forCheck {
                try TableRepeats.check(
                    file, at: header.l1Offset, count: min(header.tableCount, header.entriesPerTable),
                    unit: header.clusterBytes, entriesPerTable: header.entriesPerTable
                ) { bytes, offset in bytes.littleEndian(at: offset) ?? 0 }
            }
            if !settings.readOnly && !settings.forCheck { try tables.prepareForWriting() }
            return QedDriver(tables)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    public var backing: BackingReference? { reference.withLock { $0 } }
    public var writeGranularity: Int { clusterBytes }
    /// Zeroed clusters stay where they are, as holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle { .unitsAreWhole }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }
    func setBacking(_ backing: BackingReference?) { reference.withLock { $0 = backing } }

    // MARK: Mapping

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try tables.withLock { (tables) throws(BlockError) -> Extent in
            let inside = offset % clusterBytes
            let wanted = (inside + limit - 1) / clusterBytes + 1
            guard let (slot, first, most) = try tables.entries(at: offset, limit: wanted) else {
                let rest = tables.header.guestBytesPerTable - offset % tables.header.guestBytesPerTable
                return Extent(.unallocated, length: min(limit, rest))
            }
            let entry = tables.entry(slot, first)
            let step: UInt64 = entry > Qed.zeroCluster ? UInt64(clusterBytes) : 0
            var count = 1
            while count < most, tables.entry(slot, first + count) == entry &+ step &* UInt64(count) {
                count += 1
            }
            let length = min(limit, count * clusterBytes - inside)
            switch entry {
            case 0: return Extent(.unallocated, length: length)
            case Qed.zeroCluster: return Extent(.zero(hostOffset: nil), length: length)
            default:
                let host = try tables.statedOffset(entry)
                return Extent(.data(hostOffset: host + inside), length: length)
            }
        }
    }

    public func describe() throws(BlockError) -> FormatInfo {
        let header = tables.withLock { $0.header }
        return FormatInfo(
            clusterSizeBytes: clusterBytes, isDirty: header.needsCheck,
            specific: [InfoField("table-size", .number(header.tableClusters))])
    }
}
