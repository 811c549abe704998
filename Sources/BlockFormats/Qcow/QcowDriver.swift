import BlockCore
import Synchronization

/// QEMU's first copy-on-write images, qcow version 1: two levels of tables, compression, AES; no snapshots.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read, written,
/// encrypted and compressed outside the lock.
public final class QcowDriver: LegacySessionFormat {
    public static let name = "qcow"
    public static let optionsInName = ["encrypt.key-secret"]

    let data: GuestData
    let clusterBytes: Int
    let clusterBits: Int
    let isEncrypted: Bool
    let tables: Monitor<QcowTables>
    let request: OpenRequest
    private let size: Atomic<Int>
    private let reference: Mutex<BackingReference?>

    var file: BlockNode { data.node }
    var state: Monitor<QcowTables> { tables }

    private init(_ tables: QcowTables, _ request: OpenRequest) {
        data = tables.data
        clusterBytes = tables.header.clusterBytes
        clusterBits = tables.header.clusterBits
        isEncrypted = tables.header.isEncrypted
        size = Atomic(tables.header.virtualSize)
        reference = Mutex(tables.header.backing)
        self.request = request
        self.tables = Monitor(tables)
    }

    /// Version 1 only: later ones are qcow2.
    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.bigEndian(at: 0) == Qcow.magic && header.bigEndian(at: 4) == Qcow.version ? 100 : 0
    }

    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> QcowDriver {
        do throws(BlockError) {
            let header = try readHeader(request.file)
            var data = GuestData(node: request.file, child: 0)
            data.encryption = try unlock(header, request, &options)
            let settings = request.settings
            let tables = try QcowTables(data, header: header, isReadOnly: settings.readOnly)
            if !settings.metadataOnly && !settings.forCheck {
                try TableRepeats.check(
                    request.file, at: header.l1Offset, count: header.l1Entries, unit: Qcow.sectorBytes,
                    entriesPerTable: header.entriesPerTable
                ) { bytes, offset in bytes.bigEndian(at: offset) ?? 0 }
            }
            if !settings.readOnly && !settings.forCheck { try tables.prepareForWriting() }
            return QcowDriver(tables, request)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    private static func readHeader(_ file: BlockNode) throws(BlockError) -> QcowHeader {
        let length = try file.length()
        var header = try QcowHeader.parse(
            try file.readBytes(at: 0, count: min(length, Qcow.headerBytes)), fileLength: length)
        if header.backingBytes > 0 {
            let name = try file.readBytes(at: header.backingOffset, count: header.backingBytes)
            header.backing = BackingReference(filename: String(raw: name), format: nil)
        }
        return header
    }

    private static func unlock(
        _ header: QcowHeader, _ request: OpenRequest, _ options: inout OptionTree
    ) throws(BlockError) -> DataEncryption? {
        let named = try EncryptionChoice(taking: &options)
        try named.check(against: header.isEncrypted ? DataEncryption.aesName : nil)
        guard header.isEncrypted, !request.settings.metadataOnly, !request.settings.withoutKeys else {
            return nil
        }
        return try .aes(password: try named.password(request.secrets))
    }

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    public var backing: BackingReference? { reference.withLock { $0 } }
    public var writeGranularity: Int { clusterBytes }
    /// Zeroed clusters stay where they are, as holes of the file.
    public var dataMayBeHoles: Bool { !isEncrypted }
    public var mapStyle: MapStyle { .unitsAreWhole }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }
    func setBacking(_ backing: BackingReference?) { reference.withLock { $0 = backing } }

    // MARK: Mapping

    /// How many clusters `count` bytes touch that start `inside` bytes into one.
    func clusters(_ inside: Int, _ count: Int) -> Int { (inside + count - 1) >> clusterBits + 1 }

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let inside = offset & (clusterBytes - 1)
        let run = try tables.withLock { (tables) throws(BlockError) in
            try tables.run(at: offset, limit: clusters(inside, limit))
        }
        let length = min(limit, run.count << clusterBits - inside)
        switch run.first {
        case .unallocated: return Extent(.unallocated, length: length)
        case .compressed: return Extent(.encoded(compressed: true), length: length)
        case .data(let host):
            return Extent(
                isEncrypted ? .encoded(compressed: false) : .data(hostOffset: host + inside), length: length)
        }
    }

    public func describe() throws(BlockError) -> FormatInfo {
        let header = tables.withLock { $0.header }
        return FormatInfo(
            clusterSizeBytes: clusterBytes, isEncrypted: isEncrypted,
            specific: [
                InfoField("l2-entries", .number(header.tableBytes / 8)),
                InfoField("encryption", .text(isEncrypted ? DataEncryption.aesName : "none")),
            ])
    }
}
