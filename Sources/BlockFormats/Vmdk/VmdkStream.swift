import BlockCore

/// Writes a compressed disk sequentially: header, descriptor, grains, each grain table behind its grains, the
/// grain directory, the footer (a header with the directory's offset), the end marker.
///
/// Not thread-safe: used under the driver's lock. Sendable is unchecked: only the driver's monitor passes it
/// between threads.
final class VmdkStream: @unchecked Sendable {
    let file: BlockNode
    private let header: VmdkSparseHeader
    /// The length of the file in bytes, including the pending ones.
    private var position = 0
    /// The last bytes of the file, which are collected into one write.
    private let pending = AlignedBuffer(count: 1 << 20)
    private var pendingBytes = 0
    private var directory: [UInt32]
    /// The table of the grains written at the moment.
    private var table: [UInt32]
    private var tableNumber = 0
    private var nextGrain = 0
    private var isFinished = false

    /// Writes header and descriptor.
    init(_ plan: VmdkPlan, on file: BlockNode) throws(BlockError) {
        self.file = file
        var header = plan.header(plan.sectors)
        header.flags &= ~Vmdk.Flag.redundantTables
        header.redundantDirectoryOffset = nil
        header.isAtEnd = true
        header.directoryOffset = 0
        header.overheadBytes = header.grainBytes
        self.header = header
        directory = [UInt32](repeating: 0, count: header.directoryEntries)
        table = [UInt32](repeating: 0, count: header.tableEntries)
        let text = plan.descriptor.text
        guard text.count <= header.descriptorBytes else {
            throw BlockError(.limit, "The descriptor does not fit into the image")
        }
        try append(header.serialised())
        try append(text)
        try pad(to: header.overheadBytes)
        try writePending()
    }

    var capacityBytes: Int { header.capacityBytes }
    var grainBytes: Int { header.grainBytes }

    /// Appends a compressed grain.
    ///
    /// - Throws: `unsupported` for a grain before the last one; `noSpace` behind 2 TiB; `io`.
    func append(_ payload: RawSpan, grain: Int) throws(BlockError) {
        guard grain >= nextGrain, !isFinished else {
            throw BlockError(
                .unsupported, "A stream takes grains only one after the other", path: file.filename)
        }
        if grain / header.tableEntries != tableNumber { try endTable() }
        tableNumber = grain / header.tableEntries
        let stored = Vmdk.Marker.grainHeaderBytes + payload.byteCount
        table[grain % header.tableEntries] = try sector(behind: stored)
        nextGrain = grain + 1
        try append(VmdkGrainCodec.marker(payload, guestSector: grain * header.grainSectors))
        try append(payload)
        try padToSector()
    }

    /// Writes tables, directory, footer and end marker behind the grains.
    func finish() throws(BlockError) {
        try endTable()
        try appendMarker(Vmdk.Marker.grainDirectory, sectors: header.directoryBytes / Vmdk.sectorBytes)
        var footer = header
        footer.isAtEnd = false
        footer.directoryOffset = position
        try append(VmdkGrainTables.bytes(directory))
        try padToSector()
        try appendMarker(Vmdk.Marker.footer, sectors: 1)
        try append(footer.serialised())
        try append([UInt8](repeating: 0, count: Vmdk.sectorBytes))
        try writePending()
        isFinished = true
    }

    private func endTable() throws(BlockError) {
        guard table.contains(where: { $0 != 0 }) else { return }
        try appendMarker(Vmdk.Marker.grainTable, sectors: header.tableSectors)
        directory[tableNumber] = try sector(behind: header.tableBytes)
        try append(VmdkGrainTables.bytes(table))
        table = [UInt32](repeating: 0, count: header.tableEntries)
    }

    /// The sector at the end of the file, at which `count` bytes will be appended.
    private func sector(behind count: Int) throws(BlockError) -> UInt32 {
        guard (position + count) / Vmdk.sectorBytes < Vmdk.Limit.fileSectors else {
            throw BlockError(.noSpace, "A sparse extent cannot have more than 2 TiB", path: file.filename)
        }
        return UInt32(position / Vmdk.sectorBytes)
    }

    /// Appends a marker, one sector: the number of sectors that follow, no size, their type.
    private func appendMarker(_ type: UInt32, sectors: Int) throws(BlockError) {
        var bytes = [UInt8](repeating: 0, count: Vmdk.sectorBytes)
        Vmdk.Marker.sectorField.store(UInt64(sectors), in: &bytes)
        Vmdk.Marker.typeField.store(UInt64(type), in: &bytes)
        try append(bytes)
    }

    private func append(_ bytes: [UInt8]) throws(BlockError) { try append(bytes.span.bytes) }

    private func append(_ bytes: RawSpan) throws(BlockError) {
        let pending = pending
        var done = 0
        while done < bytes.byteCount {
            if pendingBytes == pending.count { try writePending() }
            let count = min(bytes.byteCount - done, pending.count - pendingBytes)
            var room = pending.mutableBytes(pendingBytes..<pendingBytes + count)
            room.copy(from: bytes.extracting(done..<done + count))
            done += count
            pendingBytes += count
            position += count
        }
    }

    private func writePending() throws(BlockError) {
        let pending = pending
        try file.write(pending.bytes(0..<pendingBytes), at: position - pendingBytes)
        pendingBytes = 0
    }

    private func padToSector() throws(BlockError) {
        try pad(to: position.roundedUp(to: Vmdk.sectorBytes) ?? position)
    }

    private func pad(to offset: Int) throws(BlockError) {
        guard offset > position else { return }
        try append([UInt8](repeating: 0, count: offset - position))
    }
}

extension VmdkDriver: StreamWriting {
    /// - Throws: `unsupported` for a flat subformat; `invalidArgument`.
    public static func checkCompression(_ options: CreateOptions) throws(BlockError) {
        if try VmdkPlan.subformat(options).isFlat { throw noGrains(nil) }
    }

    /// The error for a flat image, in QEMU's words.
    static func noGrains(_ path: String?) -> BlockError {
        BlockError(
            .unsupported, "invalid cluster size", path: path,
            hint: "A flat VMDK image has no grains to compress; of the subformats, streamOptimized stores "
                + "them compressed.")
    }

    public static func isStream(_ options: CreateOptions) -> Bool {
        options[.subformat] == Vmdk.Subformat.streamOptimized.rawValue && options[.backingFile] == nil
    }

    /// - Throws: `invalidArgument`, `unsupported`, `limit`; `io`, `noSpace`.
    public static func beginStream(
        _ options: CreateOptions, in context: CreateContext, on file: BlockNode
    ) throws(BlockError) -> VmdkDriver {
        let plan = try VmdkPlan(options, filename: context.filename, uuid: context.newUUID(for: "vmdk"))
        let stream = try VmdkStream(plan, on: file)
        let extent = VmdkExtent(
            guest: 0..<stream.capacityBytes, content: .stream(stream), file: file, filename: file.filename,
            kindName: "")
        return VmdkDriver(VmdkState(descriptor: nil, extents: [extent], isReadOnly: false), file)
    }

    /// - Throws: `io`, `noSpace`.
    public func finishStream() throws(BlockError) {
        try session.exclusively { (state) throws(BlockError) in
            for extent in state.extents {
                if case .stream(let stream) = extent.content { try stream.finish() }
            }
        }
    }

    public var compressesAlways: Bool {
        session.withLock { state in
            state.extents.contains { extent in
                if case .stream = extent.content { return true }
                return extent.tables?.header.isCompressed == true
            }
        }
    }
}
