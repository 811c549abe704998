import BlockCore

extension Qcow2Driver: Creatable, Measurable {
    public static var createOptions: [CreateOption] {
        encryptionOptions + [
            CreateOption(
                .clusterSize, .size, default: "65536", help: "Cluster size: 512 to 2M, a power of two"),
            CreateOption(.extendedL2, .bool, default: "off", help: "Map subclusters, 32 to a cluster"),
            CreateOption(.preallocation, .string, help: "off, metadata, falloc or full"),
            CreateOption(
                .compressionType, .string, default: "zlib", help: "How clusters are compressed: zlib, zstd"),
            CreateOption(.size, .size, help: "Size of the virtual disk"),
            CreateOption(.compat, .string, help: "Version: 0.10 (v2) or 1.1 (v3)"),
            CreateOption(.backingFile, .string, help: "File name of the base image"),
            CreateOption(.backingFormat, .string, help: "Format of the base image"),
            CreateOption(.dataFile, .string, help: "File name of an external data file"),
            CreateOption(.dataFileRaw, .bool, help: "The data file is the disk, without the image"),
            CreateOption(.lazyRefcounts, .bool, default: "off", help: "Put off refcount updates"),
            CreateOption(.refcountBits, .number, default: "16", help: "Refcount width in bits: 1 to 64"),
        ]
    }

    private static var encryptionOptions: [CreateOption] {
        [
            CreateOption(.encryption, .bool, help: "Old name of encrypt.format=aes"),
            CreateOption(.encryptFormat, .string, help: "Encrypt the data: luks, or aes as old images do"),
            CreateOption(.encryptKeySecret, .string, help: "ID of the secret that unlocks the image"),
            CreateOption(
                .encryptCipherAlg, .string, help: "Cipher: aes-128, aes-192 or aes-256 (the default)"),
            CreateOption(.encryptCipherMode, .string, help: "Mode of the cipher: xts (the default) or cbc"),
            CreateOption(
                .encryptHashAlg, .string,
                help: "Hash for deriving keys: sha1, sha224, sha256, sha384 or sha512"),
            CreateOption(
                .encryptIvgenAlg, .string,
                help: "Initialisation vectors: plain64 (the default), plain or essiv"),
            CreateOption(.encryptIvgenHashAlg, .string, help: "Hash for essiv (default: sha256)"),
            CreateOption(
                .encryptIterTime, .number, help: "Milliseconds that unlocking shall take (default: 2000)"),
        ]
    }

    /// The checked plan of an image for `create` and `measure`.
    struct Plan {
        var header: Qcow2Header
        var preallocation: Preallocation
        var encryption: Encryption?
        var layout: Qcow2Layout { header.layout }
        /// Whether the data gets its space in the file at creation.
        var reservesSpace: Bool { preallocation == .falloc || preallocation == .full }
    }

    /// Order of writes: the data file; all other metadata, a barrier; then the header, so that a half-made
    /// file is no image.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        var plan = try Plan(options)
        let cluster = plan.layout.clusterSize
        if let encryption = plan.encryption { _ = try context.secrets.passphrase(encryption.secret) }
        let metadataBytes = try initialLayout(&plan.header, luksClusters: plan.luksClusters)
        plan.placeLuksHeader(end: metadataBytes)
        let dataFile = try createDataFile(plan, context)
        let needsSpace = dataFile == nil && plan.reservesSpace
        let size = needsSpace ? try fullyAllocatedBytes(plan) : 0
        let file: BlockNode
        do throws(BlockError) {
            file = try context.createFile(size: size, preallocation: needsSpace ? plan.preallocation : .off)
        } catch {
            try? dataFile?.close()
            throw error
        }
        do throws(BlockError) {
            if let dataFile { try checkApart(file, dataFile) }
            try writeInitialTables(plan, file, usedClusters: metadataBytes / cluster)
            let name = plan.header.backing.map { $0.filename.rawBytes } ?? []
            if !name.isEmpty { try file.write(name.span.bytes, at: plan.header.backingOffset) }
            let encryption = try plan.makeKeys(file, context)
            try file.flush()
            try file.write(plan.header.bytesWithExtensions().span.bytes, at: 0)
            try file.flush()
            if plan.preallocation != .off { try preallocate(plan, file, dataFile, encryption) }
        } catch {
            try? file.close()
            try? dataFile?.close()
            throw error
        }
        var failures = FirstFailure()
        failures.note { () throws(BlockError) in try file.close() }
        failures.note { () throws(BlockError) in try dataFile?.close() }
        try failures.throwFirst()
    }

    /// Makes the file for the guest's data, under the name that the image stores, as long as the disk.
    private static func createDataFile(
        _ plan: Plan, _ context: CreateContext
    ) throws(BlockError) -> BlockNode? {
        guard let name = plan.header.dataFileName else { return nil }
        let path = FileNames.resolve(name, relativeTo: context.filename)
        guard !path.isSameName(as: context.filename) else { throw sameFile(path) }
        return try context.createFile(
            named: path, size: plan.header.virtualSize,
            preallocation: plan.reservesSpace ? plan.preallocation : .off)
    }

    private static func checkApart(_ file: BlockNode, _ dataFile: BlockNode) throws(BlockError) {
        guard let identity = file.identity, identity == dataFile.identity else { return }
        throw sameFile(dataFile.filename)
    }

    private static func sameFile(_ path: String) -> BlockError {
        BlockError(.invalidArgument, "The data file '\(path)' is the image itself", path: path)
    }

    /// Places header, refcount table, refcount blocks and L1 table, with room for a LUKS header behind them.
    /// Returns their size in bytes.
    private static func initialLayout(
        _ header: inout Qcow2Header, luksClusters: Int
    ) throws(BlockError) -> Int {
        let layout = header.layout
        header.refcountTableOffset = layout.clusterSize
        header.l1Entries = layout.l1Entries(forVirtualSize: header.virtualSize)
        guard header.l1Entries <= Qcow2.Limit.l1TableBytes / 8 else {
            throw BlockError(
                .limit, "The image size is too large (try using a larger cluster size)")
        }
        let tables = layout.clusters(header.l1Entries * 8) + luksClusters
        let counting = refcountClusters(counting: 1 + tables, layout)
        guard counting.table << layout.clusterBits <= Qcow2.Limit.refcountTableBytes else {
            throw BlockError(.limit, "The image size is too large (try using a larger cluster size)")
        }
        header.refcountTableClusters = counting.table
        let before = 1 + counting.table + counting.blocks
        header.l1Offset = before * layout.clusterSize
        return (before + tables) * layout.clusterSize
    }

    private static func writeInitialTables(
        _ plan: Plan, _ file: BlockNode, usedClusters: Int
    ) throws(BlockError) {
        let layout = plan.layout
        let firstBlock = 1 + plan.header.refcountTableClusters
        let blocks = plan.header.l1Offset / layout.clusterSize - firstBlock
        var table = [UInt64](repeating: 0, count: (firstBlock - 1) * layout.clusterSize / 8)
        for block in 0..<blocks {
            table[block] = UInt64((firstBlock + block) * layout.clusterSize)
            let buffer = AlignedBuffer(count: layout.clusterSize, zeroed: true)
            var bytes = buffer.mutableBytes
            let first = block * layout.refcountsPerBlock
            for cluster in first..<max(first, min(usedClusters, first + layout.refcountsPerBlock)) {
                RefcountEntries.set(&bytes, cluster - first, to: 1, order: layout.refcountOrder)
            }
            try file.write(buffer.bytes, at: (firstBlock + block) * layout.clusterSize)
        }
        try BigEndianTable.write(table, to: file, at: layout.clusterSize)
        let l1Bytes = max(1, plan.header.l1Entries * 8).roundedUp(to: Qcow2.sectorBytes) ?? 0
        let end = plan.header.l1Offset + l1Bytes
        if !file.isZeroInitialised {
            return try file.writeZeroes(at: plan.header.l1Offset, count: l1Bytes)
        }
        if try file.length() < end { try file.resize(to: end) }
    }

    /// Allocates every cluster of a new image.
    private static func preallocate(
        _ plan: Plan, _ file: BlockNode, _ dataFile: BlockNode?, _ encryption: DataEncryption?
    ) throws(BlockError) {
        let data = GuestData(
            node: dataFile ?? file, child: dataFile == nil ? 0 : 1, encryption: encryption)
        let tables = try Qcow2State(file: file, data: data, header: plan.header, isReadOnly: false)
        try tables.preallocate(0..<plan.header.virtualSize, plan.preallocation, fileIsZero: true)
        try finishWriting(tables)
    }

    // MARK: Sizes

    /// The file size when every guest cluster is allocated, in bytes.
    static func fullyAllocatedBytes(_ plan: Plan) throws(BlockError) -> Int {
        let cluster = plan.layout.clusterSize
        let perTable = plan.layout.entriesPerL2Table
        guard let aligned = plan.header.virtualSize.roundedUp(to: cluster),
            let l2Entries = (aligned / cluster).roundedUp(to: perTable),
            let l1Entries = (l2Entries / perTable).roundedUp(to: cluster / 8)
        else { throw BlockError(.limit, "The image size is too large") }
        let tables = cluster + l2Entries * plan.layout.l2EntryBytes + l1Entries * 8
        let (used, overflow) = tables.addingReportingOverflow(aligned)
        let (sum, tooLarge) = used.addingReportingOverflow(
            refcountBytes(forClusters: used / cluster, plan.layout))
        let (whole, isHuge) = sum.addingReportingOverflow(plan.luksClusters * cluster)
        guard !overflow, !tooLarge, !isHuge else {
            throw BlockError(.limit, "The image size is too large")
        }
        return whole
    }

    /// The bytes of the blocks and the table that count `clusters` and themselves.
    private static func refcountBytes(forClusters clusters: Int, _ layout: Qcow2Layout) -> Int {
        let needed = refcountClusters(counting: clusters, layout)
        return (needed.blocks + needed.table) * layout.clusterSize
    }

    /// The blocks that count `clusters` and themselves, and the clusters of their table.
    private static func refcountClusters(
        counting clusters: Int, _ layout: Qcow2Layout
    ) -> (blocks: Int, table: Int) {
        var blocks = 0
        var table = 0
        while true {
            let newBlocks = (clusters + blocks + table).dividedRoundingUp(by: layout.refcountsPerBlock)
            let newTable = newBlocks.dividedRoundingUp(by: layout.clusterSize / 8)
            if newBlocks == blocks && newTable == table { return (blocks, table) }
            (blocks, table) = (newBlocks, newTable)
        }
    }

    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        var options = options
        try options.set(.size, to: String(virtualSize))
        let plan = try Plan(options)
        guard plan.layout.l1Entries(forVirtualSize: virtualSize) <= Qcow2.Limit.l1TableBytes / 8 else {
            throw BlockError(.limit, "The image size is too large (try using a larger cluster size)")
        }
        let full = try fullyAllocatedBytes(plan)
        let aligned = virtualSize.roundedUp(to: plan.layout.clusterSize) ?? virtualSize
        // With a backing file, the image's contents depend on those of that file.
        let hasAll = plan.reservesSpace || (plan.header.backing != nil && source != nil)
        var data = hasAll ? aligned : 0
        if let source, !hasAll { data = try source.allocatedBytes(unit: plan.layout.clusterSize) }
        var size = MeasuredSize(required: full - aligned + min(data, aligned), fullyAllocated: full)
        if let keeper = source?.format?.asBitmapCapable, keeper.bitmapObstacle == nil,
            plan.layout.version >= 3
        {
            size.bitmaps = bitmapBytes(try keeper.bitmaps(), virtualSize: virtualSize, plan.layout)
        }
        return size
    }
}
