import BlockCore

extension QedDriver: Measurable {
    private static let defaultClusterBytes = 65536
    private static let defaultTableClusters = 4

    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(.backingFile, .string, help: "Backing file"),
            CreateOption(.backingFormat, .string, help: "Format of the backing file"),
            CreateOption(
                .clusterSize, .size, default: String(defaultClusterBytes),
                help: "Cluster size, a power of two from 4K to 64M"),
            CreateOption(.tableSize, .size, help: "Clusters in a table: 1, 2, 4, 8 or 16"),
        ]
    }

    private static func newHeader(_ options: CreateOptions, size: Int) throws(BlockError) -> QedHeader {
        let cluster = options.integer(.clusterSize) ?? defaultClusterBytes
        guard Qed.Limit.clusterBytes.contains(cluster), cluster.isPowerOfTwo else {
            throw BlockError(
                .invalidArgument, "QED cluster size must be within range [4096, 67108864] and power of 2")
        }
        let table = options.integer(.tableSize) ?? defaultTableClusters
        guard Qed.Limit.tableClusters.contains(table), table.isPowerOfTwo else {
            throw BlockError(
                .invalidArgument, "QED table size must be within range [1, 16] and power of 2")
        }
        guard QedHeader.isUsable(clusterBytes: cluster, tableClusters: table) else {
            throw BlockError(
                .invalidArgument,
                "QED tables of \(table) clusters of \(cluster) bytes would map more than any program can use")
        }
        let most = QedHeader.largestDisk(clusterBytes: cluster, tableClusters: table)
        guard let rounded = size.roundedUp(to: Qed.sectorBytes), rounded <= most else {
            throw BlockError(.limit, "A QED image of these sizes holds at most \(most) bytes")
        }
        return QedHeader(
            clusterBytes: cluster, tableClusters: table, headerClusters: 1, features: 0, compatible: 0,
            autoclear: 0, l1Offset: cluster, virtualSize: rounded, backingOffset: 0, backingBytes: 0)
    }

    /// The header is written last, because it makes the file an image.
    ///
    /// - Throws: `invalidArgument`, `limit`; `io`, `noSpace`, `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        var header = try newHeader(options, size: options.integer(.size) ?? 0)
        let backing = options[.backingFile].flatMap { name in
            name.isEmpty ? nil : BackingReference(filename: name, format: options[.backingFormat])
        }
        let name = try header.setBacking(backing, avoiding: 0..<0)
        let file = try context.createFile(size: 0)
        do throws(BlockError) {
            try file.writeZeroes(at: 0, count: header.l1Offset + header.tableBytes)
            try file.flush()
            let bytes = header.serialised() + name
            try file.write(bytes.span.bytes, at: 0)
            try file.flush()
        } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    /// - Throws: `invalidArgument`, `limit`; `io` when the source cannot be read.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        let header = try newHeader(options, size: virtualSize)
        func tables(_ bytes: Int) -> Int {
            (bytes / header.guestBytesPerTable + (bytes % header.guestBytesPerTable == 0 ? 0 : 1))
                * header.tableBytes
        }
        let fixed = header.l1Offset + header.tableBytes
        let full = virtualSize.roundedUp(to: header.clusterBytes) ?? virtualSize
        var data = 0
        var used = 0
        if let source {
            data = try source.allocatedBytes(unit: header.clusterBytes)
            used = try source.allocatedBytes(unit: header.guestBytesPerTable)
        }
        return try MeasuredSize(fixed: fixed, data: tables(used) + data, full: tables(full) + full)
    }
}

extension QedHeader {
    /// The offsets for names that do not fit into the first sector, used in turn.
    private static let namePlaces = [Qed.sectorBytes, Qed.sectorBytes * 4]

    /// Sets the backing file and finds a place for its name.
    ///
    /// - Parameter old: the place of the present name, which must survive until the header is written.
    /// - Returns: the name's bytes; they belong at ``backingOffset``.
    mutating func setBacking(
        _ reference: BackingReference?, avoiding old: Range<Int>
    ) throws(BlockError) -> [UInt8] {
        let name = (reference?.filename ?? "").rawBytes
        guard name.count <= Qed.Limit.backingNameBytes else {
            throw BlockError(.limit, "Backing file name too long")
        }
        features &= ~(Qed.Feature.backingFile | Qed.Feature.backingIsRaw)
        backing = reference
        backingBytes = name.count
        backingOffset = name.isEmpty ? 0 : Qed.headerBytes
        guard let reference else { return [] }
        features |= Qed.Feature.backingFile
        if reference.format == RawDriver.name { features |= Qed.Feature.backingIsRaw }
        if Qed.headerBytes + name.count > Qed.sectorBytes {
            backingOffset =
                Self.namePlaces.first { !old.overlaps($0..<$0 + name.count) } ?? Self.namePlaces[0]
        }
        if backingOffset == Qed.headerBytes { return name }
        // Padded to the name's place behind the fixed fields, so that both are one write.
        return [UInt8](repeating: 0, count: backingOffset - Qed.headerBytes) + name
    }
}

extension QedDriver: Rebasable {
    /// Changes the backing file that the image names.
    ///
    /// The order of writes:
    ///
    /// 1. a name that does not fit into the first sector, away from the present one; a flush;
    /// 2. the first sector, atomically: after a crash the image has the old or the new name.
    ///
    /// - Throws: `limit` for a name that is too long; `io`, `noSpace`, `corrupt`.
    public func changeBacking(to backing: BackingReference?) throws(BlockError) {
        try session.exclusively { (tables) throws(BlockError) in
            try tables.commit()
            var header = tables.header
            let old = header.backingOffset..<header.backingOffset + header.backingBytes
            let name = try header.setBacking(backing, avoiding: old)
            var bytes = header.serialised() + name
            if bytes.count > Qed.sectorBytes {
                let text = Array(name.suffix(header.backingBytes))
                try file.write(text.span.bytes, at: header.backingOffset)
                try file.flush()
                bytes.removeLast(bytes.count - Qed.headerBytes)
            }
            try file.write(bytes.span.bytes, at: 0)
            try file.flush()
            tables.header = header
        }
    }
}
