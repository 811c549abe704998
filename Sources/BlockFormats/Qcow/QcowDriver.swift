import BlockCore

/// QEMU's first copy-on-write images, qcow version 1: two levels of tables, compression, AES; no snapshots.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read, written,
/// encrypted and compressed outside the lock.
public final class QcowDriver: SessionFormat {
    public static let name = "qcow"
    public static let optionsInName = ["encrypt.key-secret"]

    let data: GuestData
    let clusterBytes: Int
    let clusterBits: Int
    let isEncrypted: Bool
    let session: Session<QcowState>
    let request: OpenRequest

    var file: BlockNode { data.node }

    private init(_ state: QcowState, _ request: OpenRequest) {
        data = state.data
        clusterBytes = state.header.clusterBytes
        clusterBits = state.header.clusterBits
        isEncrypted = state.header.isEncrypted
        self.request = request
        session = Session(state)
    }

    /// Matches version 1 only: later versions are qcow2.
    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.bigEndian(at: 0) == Qcow.magic && header.bigEndian(at: 4) == Qcow.version ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`; `invalidArgument`, `notFound` for the
    ///   options of an encrypted image; `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> QcowDriver {
        do throws(BlockError) {
            let header = try readHeader(request.file)
            var data = GuestData(node: request.file, child: 0)
            data.encryption = try unlock(header, request, &options)
            let settings = request.settings
            let state = try QcowState(data, header: header, isReadOnly: settings.readOnly)
            if !settings.metadataOnly && !settings.forCheck {
                try TableRepeats.check(
                    request.file, at: header.l1Offset, count: header.l1Entries, unit: Qcow.sectorBytes,
                    entriesPerTable: header.entriesPerTable
                ) { bytes, offset in bytes.bigEndian(at: offset) ?? 0 }
            }
            if !settings.readOnly && !settings.forCheck { try state.prepareForWriting() }
            return QcowDriver(state, request)
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

    public var writeGranularity: Int { clusterBytes }
    /// Zeroed clusters keep their places, as holes of the file.
    public var dataMayBeHoles: Bool { !isEncrypted }
    public var mapStyle: MapStyle { .unitsAreWhole }

    /// Encrypts guest bytes and writes them to the space of a grant.
    ///
    /// - Throws: `io`, `noSpace`.
    public func storeEncoded(
        _ bytes: RawSpan, for grant: WriteGrant, at guest: Int
    ) throws(BlockError) {
        try data.write(bytes, at: grant.hostOffset(of: guest), guest: guest)
    }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        let header = session.withLock { $0.header }
        return FormatInfo(
            clusterSizeBytes: clusterBytes, isEncrypted: isEncrypted,
            specific: [
                InfoField("l2-entries", .number(header.tableBytes / 8)),
                InfoField("encryption", .text(isEncrypted ? DataEncryption.aesName : "none")),
            ])
    }
}
