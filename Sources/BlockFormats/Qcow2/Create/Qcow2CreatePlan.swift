import BlockCore

extension Qcow2Driver.Plan {
    /// Checks create options and turns them into a header.
    ///
    /// - Throws: `invalidArgument` or `unsupported`, naming the option.
    init(_ options: CreateOptions) throws(BlockError) {
        var header = Qcow2Header()
        header.virtualSize = try Self.virtualSize(options)
        header.clusterBits = try Self.clusterBits(options)
        header.version = try Self.version(options)
        header.refcountOrder = try Self.refcountOrder(options, version: header.version)
        try Self.addSubclusters(options, to: &header)
        encryption = try Self.encryption(options)
        header.cryptMethod = (encryption?.method ?? .none).rawValue
        preallocation = try options.preallocation()
        if options.flag(.lazyRefcounts) {
            guard header.version >= 3 else {
                throw BlockError(
                    .invalidArgument,
                    "Lazy refcounts only supported with compatibility level 1.1 and above "
                        + "(use version=v3 or greater)")
            }
            header.compatible |= Qcow2.Compatible.lazyRefcounts
        }
        header.compressionType = try Self.compressionType(options, version: header.version)
        if header.compressionType != .zlib { header.incompatible.insert(.compressionType) }
        header.headerLength = header.version == 2 ? Qcow2Header.version2Length : Qcow2Header.knownLength
        if header.version >= 3 { header.extensions = [Qcow2Header.featureNameTable] }
        try Self.addDataFile(options, to: &header)
        if header.keepsDataFileRaw && preallocation == .off { preallocation = .metadata }
        if let name = options[.backingFile], !name.isEmpty {
            header.backing = BackingReference(filename: name, format: options[.backingFormat])
            guard preallocation == .off || options.flag(.extendedL2) else {
                throw BlockError(
                    .invalidArgument,
                    "Backing file and preallocation can only be used at the same time "
                        + "if extended_l2 is enabled")
            }
        }
        // Place and size are filled in by the layout; the extension's length decides where the backing name
        // lies.
        if encryption?.luks != nil { header.addLuksExtension(0..<0) }
        try header.placeBackingName()
        self.header = header
    }

    private static func addDataFile(
        _ options: CreateOptions, to header: inout Qcow2Header
    ) throws(BlockError) {
        guard let name = options[.dataFile] else {
            guard !options.flag(.dataFileRaw) else {
                throw BlockError(.invalidArgument, "data-file-raw requires data-file")
            }
            return
        }
        guard header.version >= 3 else {
            throw BlockError(
                .invalidArgument,
                "External data files are only supported with compatibility level 1.1 and above "
                    + "(use version=v3 or greater)")
        }
        guard !name.isEmpty, !name.utf8.contains(0) else {
            throw BlockError(.invalidArgument, "Could not create '\(name)': No such file or directory")
        }
        header.incompatible.insert(.dataFile)
        header.extensions.insert(
            Qcow2Header.Extension(type: Qcow2.ExtensionType.dataFile, data: name.rawBytes), at: 0)
        guard options.flag(.dataFileRaw) else { return }
        guard (options[.backingFile] ?? "").isEmpty else {
            throw BlockError(
                .invalidArgument, "Backing file and data-file-raw cannot be used at the same time")
        }
        header.autoclear |= Qcow2.Autoclear.dataFileRaw
    }

    private static func virtualSize(_ options: CreateOptions) throws(BlockError) -> Int {
        guard let size = options.integer(.size) else {
            throw BlockError(.invalidArgument, "Image creation needs a size parameter")
        }
        guard let rounded = size.roundedUp(to: Qcow2.sectorBytes), rounded <= Qcow2.Limit.virtualSize else {
            throw BlockError(.limit, "The image size is too large (try using a larger cluster size)")
        }
        return rounded
    }

    private static func clusterBits(_ options: CreateOptions) throws(BlockError) -> Int {
        let size = options.integer(.clusterSize) ?? 65536
        guard size.isPowerOfTwo, Qcow2.clusterBitsRange.contains(size.trailingZeroBitCount) else {
            throw BlockError(.invalidArgument, "Cluster size must be a power of two between 512 and 2048k")
        }
        return size.trailingZeroBitCount
    }

    private static func version(_ options: CreateOptions) throws(BlockError) -> Int {
        switch options[.compat] {
        case nil, "1.1", "v3": return 3
        case "0.10", "v2": return 2
        case let other?:
            throw BlockError(.invalidArgument, "Parameter 'version' does not accept value '\(other)'")
        }
    }

    private static func refcountOrder(_ options: CreateOptions, version: Int) throws(BlockError) -> Int {
        let bits = options.integer(.refcountBits) ?? 16
        guard bits.isPowerOfTwo, bits <= 64 else {
            throw BlockError(
                .invalidArgument, "Refcount width must be a power of two and may not exceed 64 bits")
        }
        guard version >= 3 || bits == 16 else {
            throw BlockError(
                .invalidArgument,
                "Different refcount widths than 16 bits require compatibility level 1.1 "
                    + "or above (use version=v3 or greater)")
        }
        return bits.trailingZeroBitCount
    }

    private static func compressionType(
        _ options: CreateOptions, version: Int
    ) throws(BlockError) -> Qcow2.CompressionType {
        switch options[.compressionType] {
        case nil, "zlib": return .zlib
        case "zstd":
            guard version >= 3 else {
                throw BlockError(
                    .invalidArgument,
                    "Non-zlib compression type is only supported with compatibility level 1.1 "
                        + "and above (use version=v3 or greater)")
            }
            return .zstd
        case let other?:
            throw BlockError(
                .invalidArgument, "Parameter 'compression-type' does not accept value '\(other)'")
        }
    }

    private static func addSubclusters(
        _ options: CreateOptions, to header: inout Qcow2Header
    ) throws(BlockError) {
        guard options.flag(.extendedL2) else { return }
        guard header.version >= 3 else {
            throw BlockError(
                .invalidArgument,
                "Extended L2 entries are only supported with compatibility level 1.1 and above "
                    + "(use version=v3 or greater)")
        }
        guard header.clusterBits >= Qcow2.clusterBitsWithSubclusters else {
            throw BlockError(
                .invalidArgument,
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes")
        }
        header.incompatible.insert(.extendedL2)
    }
}
