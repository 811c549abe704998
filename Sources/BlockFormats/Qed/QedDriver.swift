import BlockCore

/// QEMU's QED images (docs/interop/qed_spec.rst).
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock.
public final class QedDriver: SessionFormat {
    public static let name = "qed"

    let file: BlockNode
    let clusterBytes: Int
    let session: Session<QedState>

    private init(_ state: QedState) {
        file = state.file
        clusterBytes = state.header.clusterBytes
        session = Session(state)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let magic: UInt32? = header.littleEndian(at: 0)
        return magic == Qed.magic ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`; `io`.
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
            let state = try QedState(file: file, header: header, isReadOnly: settings.readOnly)
            if !settings.metadataOnly && !settings.forCheck {
                try TableRepeats.check(
                    file, at: header.l1Offset, count: min(header.tableCount, header.entriesPerTable),
                    unit: header.clusterBytes, entriesPerTable: header.entriesPerTable
                ) { bytes, offset in bytes.littleEndian(at: offset) ?? 0 }
            }
            if !settings.readOnly && !settings.forCheck { try state.prepareForWriting() }
            return QedDriver(state)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var writeGranularity: Int { clusterBytes }
    /// Zeroed clusters keep their places, as holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle { .unitsAreWhole }
    public var marksZeroes: Bool { true }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        let header = session.withLock { $0.header }
        return FormatInfo(
            clusterSizeBytes: clusterBytes, isDirty: header.needsCheck,
            specific: [InfoField("table-size", .number(header.tableClusters))])
    }
}
