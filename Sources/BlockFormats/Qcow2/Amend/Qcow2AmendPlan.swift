import BlockCore

/// The changes of an amendment, checked against the image before the first of them.
struct Qcow2AmendPlan {
    /// `nil` leaves it unchanged, here and in the properties that follow.
    var version: Int?
    var refcountOrder: Int?
    var isLazy: Bool?
    var virtualSize: Int?
    /// The new name; an empty one removes the name from the image.
    var dataFile: String?
    /// Whether the data file no longer has to be usable without the image.
    var endsRawDataFile = false

    /// - Throws: `invalidArgument` or `unsupported`, naming the option.
    init(_ options: CreateOptions, _ header: Qcow2Header) throws(BlockError) {
        let target = try Self.version(options[.compat]) ?? header.version
        if target != header.version { version = target }
        let encryption = options.shown.first { $0.key.rawValue.hasPrefix("encrypt.") }
        guard encryption == nil || header.cryptMethod != 0 else {
            throw BlockError(
                .invalidArgument, "Can't amend encryption options - encryption not present")
        }
        try takeRefcountBits(options, header, target)
        try takeDataFile(options, header)
        try Self.checkBacking(options, header)
        if options[.lazyRefcounts] != nil {
            let isLazyNow = header.compatible & Qcow2.Compatible.lazyRefcounts != 0
            guard target >= 3 || !options.flag(.lazyRefcounts) || isLazyNow else {
                throw BlockError(
                    .invalidArgument,
                    "Lazy refcounts only supported with compatibility level 1.1 and above "
                        + "(use compat=1.1 or greater)")
            }
            isLazy = options.flag(.lazyRefcounts)
        }
        // Scripts pass 0 for "unchanged".
        virtualSize = options.integer(.size).flatMap { $0 == 0 ? nil : $0 }
        if let virtualSize, virtualSize % Qcow2.sectorBytes != 0 {
            throw BlockError(.invalidArgument, "The new size must be a multiple of 512")
        }
    }

    private static func version(_ text: String?) throws(BlockError) -> Int? {
        switch text {
        case nil, "": return nil
        case "0.10", "v2": return 2
        case "1.1", "v3": return 3
        case let other?:
            throw BlockError(.invalidArgument, "Unknown compatibility level \(other)")
        }
    }

    private mutating func takeRefcountBits(
        _ options: CreateOptions, _ header: Qcow2Header, _ target: Int
    ) throws(BlockError) {
        var order = header.refcountOrder
        if let bits = options.integer(.refcountBits) {
            guard bits.isPowerOfTwo, bits <= 64 else {
                throw BlockError(
                    .invalidArgument, "Refcount width must be a power of two and may not exceed 64 bits")
            }
            order = bits.trailingZeroBitCount
            guard target >= 3 || bits == 16 else {
                throw BlockError(
                    .invalidArgument,
                    "Refcount widths other than 16 bits require compatibility level 1.1 or above "
                        + "(use compat=1.1 or greater)")
            }
        }
        guard target >= 3 || order == 4 else {
            throw BlockError(.invalidArgument, "compat=0.10 requires refcount_bits=16")
        }
        if order != header.refcountOrder { refcountOrder = order }
    }

    private mutating func takeDataFile(
        _ options: CreateOptions, _ header: Qcow2Header
    ) throws(BlockError) {
        let hasDataFile = header.incompatible.contains(.dataFile)
        if let name = options[.dataFile] {
            guard hasDataFile else {
                throw BlockError(
                    .invalidArgument, "data-file can only be set for images that use an external data file")
            }
            dataFile = name
        }
        let isRaw = header.autoclear & Qcow2.Autoclear.dataFileRaw != 0
        if options.flag(.dataFileRaw) && !isRaw {
            throw BlockError(.invalidArgument, "data-file-raw cannot be set on existing images")
        }
        endsRawDataFile = isRaw && options[.dataFileRaw] == "off"
    }

    /// Refuses another backing file: `rebase` changes it.
    private static func checkBacking(_ options: CreateOptions, _ header: Qcow2Header) throws(BlockError) {
        let (name, format) = (options[.backingFile], options[.backingFormat])
        if name == nil && format == nil { return }
        // One of both options alone, or an empty name where there is none, counts as another backing file, as
        // in QEMU.
        guard name?.rawBytes == header.backing?.filename.rawBytes, format == header.backing?.format else {
            throw BlockError(
                .invalidArgument, "Cannot amend the backing file", hint: "The command 'rebase' changes it.")
        }
    }
}
