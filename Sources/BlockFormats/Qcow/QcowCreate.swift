import BlockCore

extension QcowDriver: Measurable {
    private static let defaultClusterBits = 12
    private static let tableBitsOfDefault = 9
    /// Overlays have small clusters, so that a write copies little; the tables map as much as without a
    /// backing file.
    private static let overlayClusterBits = 9
    private static let overlayTableBits = 12

    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(.backingFile, .string, help: "File name of a base image"),
            CreateOption(.backingFormat, .string, help: "Format of the base image, which probing must find"),
            CreateOption(.encryption, .bool, help: "Old name of encrypt.format=aes"),
            CreateOption(.encryptFormat, .string, help: "Encrypt the data: aes"),
            CreateOption(
                .encryptKeySecret, .string, help: "ID of the secret that provides the AES encryption key"),
        ]
    }

    private static func newHeader(_ options: CreateOptions, size: Int) throws(BlockError) -> QcowHeader {
        guard size > 0 else {
            throw BlockError(.invalidArgument, "Image size is too small, cannot be zero length")
        }
        let isOverlay = options[.backingFile]?.isEmpty == false
        guard let rounded = size.roundedUp(to: Qcow.sectorBytes), rounded < 1 << 60 else {
            throw BlockError(.limit, "Image too large")
        }
        let header = QcowHeader(
            storedSize: rounded, clusterBits: isOverlay ? overlayClusterBits : defaultClusterBits,
            tableBits: isOverlay ? overlayTableBits : tableBitsOfDefault,
            isEncrypted: try encrypts(options), l1Offset: QcowHeader.frontBytes)
        guard header.l1Entries <= Qcow.Limit.l1Entries else { throw BlockError(.limit, "Image too large") }
        return header
    }

    /// - Throws: `invalidArgument` for options that contradict each other.
    private static func encrypts(_ options: CreateOptions) throws(BlockError) -> Bool {
        guard let format = try EncryptionChoice.format(options) else {
            guard options[.encryptKeySecret] == nil else {
                throw BlockError(.invalidArgument, "Parameter 'encrypt.format' is missing")
            }
            return false
        }
        guard format == DataEncryption.aesName else {
            throw BlockError(.invalidArgument, "Only AES encryption is supported by format 'qcow'")
        }
        guard options[.encryptKeySecret] != nil else {
            throw BlockError(.invalidArgument, "Parameter 'encrypt.key-secret' is required for cipher")
        }
        return true
    }

    /// The header is written last, because it makes the file an image.
    ///
    /// - Throws: `invalidArgument`, `limit`; `io`, `noSpace`, `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        var header = try newHeader(options, size: options.integer(.size) ?? 0)
        if header.isEncrypted, let secret = options[.encryptKeySecret] {
            _ = try context.secrets.passphrase(secret)
        }
        var name: [UInt8] = []
        if let filename = options[.backingFile], !filename.isEmpty {
            try checkBackingFormat(options, filename, context)
            name = filename.rawBytes
            header.backingOffset = try header.placeInFront(name) ?? 0
            header.backingBytes = name.count
        }
        let l1Bytes = (header.l1Entries * 8).roundedUp(to: Qcow.sectorBytes) ?? 0
        let file = try context.createFile(size: 0)
        do throws(BlockError) {
            try file.writeZeroes(at: 0, count: header.l1Offset + l1Bytes)
            if !name.isEmpty { try file.write(name.span.bytes, at: header.backingOffset) }
            try file.flush()
            try file.write(header.serialised().span.bytes, at: 0)
            try file.flush()
        } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    /// The image cannot store the backing file's format, so probing must find the format that the user names.
    private static func checkBackingFormat(
        _ options: CreateOptions, _ filename: String, _ context: CreateContext
    ) throws(BlockError) {
        guard let format = options[.backingFormat],
            let backing = try context.openBacking(BackingReference(filename: filename, format: nil))
        else { return }
        let found = backing.driverName
        try backing.close()
        try checkBackingFormat(format, found: found, of: filename, context.registry)
    }

    static func checkBackingFormat(
        _ format: String, found: String, of filename: String, _ registry: DriverRegistry
    ) throws(BlockError) {
        guard found != registry.format(named: format)?.name ?? format else { return }
        throw BlockError(
            .invalidArgument,
            "The backing file '\(filename)' would be taken for format '\(found)', not '\(format)': images of "
                + "format 'qcow' cannot name it")
    }

    /// - Throws: `invalidArgument`, `limit`; `io` when the source cannot be read.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        let header = try newHeader(options, size: virtualSize)
        func tables(_ bytes: Int) -> Int { header.l1Entries(for: bytes) * header.tableBytes }
        let front = header.l1Range.upperBound.roundedUp(to: header.clusterBytes) ?? 0
        let full = virtualSize.roundedUp(to: header.clusterBytes) ?? virtualSize
        var data = 0
        var mapped = 0
        if let source {
            data = try source.allocatedBytes(unit: header.clusterBytes)
            mapped = try source.allocatedBytes(unit: header.guestBytesPerTable)
        }
        return try MeasuredSize(fixed: front, data: tables(mapped) + data, full: tables(full) + full)
    }
}
