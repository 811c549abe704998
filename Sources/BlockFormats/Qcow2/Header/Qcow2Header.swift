import BlockCore

/// The header of a qcow2 image (sections "Header" and "Header extensions").
///
///     0 magic  4 version  8 backing offset  16 backing size  20 cluster_bits  24 size  32 crypt_method
///     36 l1_size  40 l1_offset  48 refcount table offset  56 its clusters  60 nb_snapshots
///     64 snapshots offset
///     version 3: 72 incompatible  80 compatible  88 autoclear  96 refcount_order  100 header_length
///     104 compression_type (where header_length > 104)
///
/// A value type; numbers are as stored, checked by ``validate(fileLength:)``.
struct Qcow2Header: Sendable {
    struct Extension: Sendable, Equatable {
        var type: UInt32
        var data: [UInt8]
    }

    var version = 3
    var clusterBits = 16
    var virtualSize = 0
    var cryptMethod: UInt32 = 0
    var l1Entries = 0
    var l1Offset = 0
    var refcountTableOffset = 0
    var refcountTableClusters = 0
    var snapshotCount = 0
    var snapshotsOffset = 0
    var incompatible: Qcow2.Incompatible = []
    var compatible: UInt64 = 0
    var autoclear: UInt64 = 0
    var refcountOrder = 4
    var compressionType = Qcow2.CompressionType.zlib
    /// Where the backing name is stored; 0 for none.
    var backingOffset = 0
    var backing: BackingReference?
    /// How long the stored name is; not the text's length where that is no UTF-8.
    var backingNameBytes = 0
    /// Everything but the end marker and the backing format, in the order of the file.
    var extensions: [Extension] = []
    /// Header fields of later versions, kept as they are.
    var unknownFields: [UInt8] = []
    /// Bytes from the start of the file to the first extension.
    var headerLength = 112

    static let version2Length = 72
    static let version3MinimumLength = 104
    static let knownLength = 112

    var layout: Qcow2Layout {
        Qcow2Layout(
            version: version, clusterBits: clusterBits, refcountOrder: refcountOrder,
            hasDataFile: incompatible.contains(.dataFile),
            hasSubclusters: incompatible.contains(.extendedL2))
    }
    /// What the user wants while the image is open, whatever its header says; never stored.
    var wantsLazyRefcounts: Bool?
    var hasLazyRefcounts: Bool {
        wantsLazyRefcounts ?? (compatible & Qcow2.Compatible.lazyRefcounts != 0)
    }

    func extensionData(_ type: UInt32) -> [UInt8]? { extensions.first { $0.type == type }?.data }

    /// The name of the external data file, where the image states one.
    var dataFileName: String? {
        guard incompatible.contains(.dataFile) else { return nil }
        return extensionData(Qcow2.ExtensionType.dataFile).map { String(raw: $0) }
    }
    /// Whether the data file alone must be the disk, at any time.
    var keepsDataFileRaw: Bool {
        incompatible.contains(.dataFile) && autoclear & Qcow2.Autoclear.dataFileRaw != 0
    }

    // MARK: Reading

    /// Reads a header from the first bytes of a file: its first cluster, or all there is.
    static func parse(_ bytes: RawSpan) throws(BlockError) -> Qcow2Header {
        guard let magic: UInt32 = bytes.bigEndian(at: 0), magic == Qcow2.magic else {
            throw BlockError(.wrongFormat, "Image is not in qcow2 format")
        }
        guard let version: UInt32 = bytes.bigEndian(at: 4), bytes.byteCount >= version2Length else {
            throw BlockError(.corrupt, "qcow2 header too short")
        }
        guard version == 2 || version == 3 else {
            throw BlockError(.unsupported, "Unsupported qcow2 version \(version)")
        }
        var header = Qcow2Header()
        header.version = Int(version)
        try header.readCommonFields(bytes)
        if version == 2 {
            header.headerLength = version2Length
        } else {
            try header.readVersion3Fields(bytes)
        }
        return header
    }

    private mutating func readCommonFields(_ bytes: RawSpan) throws(BlockError) {
        let clusterBits: UInt32 = bytes.bigEndian(at: 20) ?? 0
        guard Qcow2.clusterBitsRange.contains(Int(clusterBits)) else {
            throw BlockError(.unsupported, "Unsupported cluster size: 2^\(clusterBits)")
        }
        self.clusterBits = Int(clusterBits)
        virtualSize = try Self.number(bytes.bigEndian(UInt64.self, at: 24), "image size")
        cryptMethod = bytes.bigEndian(at: 32) ?? 0
        l1Entries = Int(bytes.bigEndian(UInt32.self, at: 36) ?? 0)
        l1Offset = try Self.number(bytes.bigEndian(UInt64.self, at: 40), "L1 table offset")
        refcountTableOffset = try Self.number(
            bytes.bigEndian(UInt64.self, at: 48), "Reference count table offset")
        refcountTableClusters = Int(bytes.bigEndian(UInt32.self, at: 56) ?? 0)
        snapshotCount = Int(bytes.bigEndian(UInt32.self, at: 60) ?? 0)
        snapshotsOffset = try Self.number(bytes.bigEndian(UInt64.self, at: 64), "Snapshot table offset")
        backingOffset = try Self.number(bytes.bigEndian(UInt64.self, at: 8), "Backing file offset")
    }

    private static func number(_ value: UInt64?, _ what: String) throws(BlockError) -> Int {
        guard let value, let number = Int(exactly: value) else {
            throw BlockError(.corrupt, "\(what) is too large")
        }
        return number
    }

    private mutating func readVersion3Fields(_ bytes: RawSpan) throws(BlockError) {
        guard bytes.byteCount >= Self.version3MinimumLength, let length: UInt32 = bytes.bigEndian(at: 100),
            length >= Self.version3MinimumLength
        else { throw BlockError(.corrupt, "qcow2 header too short") }
        guard length <= 1 << clusterBits, length <= bytes.byteCount else {
            throw BlockError(.corrupt, "qcow2 header exceeds cluster size")
        }
        headerLength = Int(length)
        incompatible = Qcow2.Incompatible(rawValue: bytes.bigEndian(at: 72) ?? 0)
        compatible = bytes.bigEndian(at: 80) ?? 0
        autoclear = bytes.bigEndian(at: 88) ?? 0
        let order: UInt32 = bytes.bigEndian(at: 96) ?? 0
        // Refused by ``validate(fileLength:)``, behind features that are not known.
        refcountOrder = Int(order)
        if headerLength > Self.version3MinimumLength {
            let type: UInt8 = bytes.bigEndian(at: Self.version3MinimumLength) ?? 0
            guard let known = Qcow2.CompressionType(rawValue: type) else {
                throw BlockError(.unsupported, "qcow2: unknown compression type: \(type)")
            }
            compressionType = known
        }
        if headerLength > Self.knownLength {
            unknownFields = bytes.part(Self.knownLength..<headerLength)?.array ?? []
        }
    }

    // MARK: Writing

    /// The fixed fields, as they stand at the start of the file; less than a sector, so written atomically.
    func fixedBytes() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: headerLength)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        span.storeBigEndian(Qcow2.magic, at: 0)
        span.storeBigEndian(UInt32(version), at: 4)
        span.storeBigEndian(UInt64(backingOffset), at: 8)
        span.storeBigEndian(UInt32(backing == nil ? 0 : backingNameBytes), at: 16)
        span.storeBigEndian(UInt32(clusterBits), at: 20)
        span.storeBigEndian(UInt64(virtualSize), at: 24)
        span.storeBigEndian(cryptMethod, at: 32)
        span.storeBigEndian(UInt32(l1Entries), at: 36)
        span.storeBigEndian(UInt64(l1Offset), at: 40)
        span.storeBigEndian(UInt64(refcountTableOffset), at: 48)
        span.storeBigEndian(UInt32(refcountTableClusters), at: 56)
        span.storeBigEndian(UInt32(snapshotCount), at: 60)
        span.storeBigEndian(UInt64(snapshotsOffset), at: 64)
        if version >= 3 { storeVersion3Fields(&span) }
        return bytes
    }

    private func storeVersion3Fields(_ span: inout MutableRawSpan) {
        span.storeBigEndian(incompatible.rawValue, at: 72)
        span.storeBigEndian(compatible, at: 80)
        span.storeBigEndian(autoclear, at: 88)
        span.storeBigEndian(UInt32(refcountOrder), at: 96)
        span.storeBigEndian(UInt32(headerLength), at: 100)
        if headerLength > Self.version3MinimumLength {
            span.storeBigEndian(compressionType.rawValue, at: Self.version3MinimumLength)
        }
        for (index, byte) in unknownFields.enumerated() where Self.knownLength + index < headerLength {
            span.storeBigEndian(byte, at: Self.knownLength + index)
        }
    }

    /// The fixed fields and all extensions, up to and with the end marker.
    func bytesWithExtensions() -> [UInt8] {
        var bytes = fixedBytes()
        if let format = backing?.format {
            Self.append(
                Extension(type: Qcow2.ExtensionType.backingFormat, data: format.rawBytes), to: &bytes)
        }
        for entry in extensions { Self.append(entry, to: &bytes) }
        // Extensions that fill the cluster need no marker, and it would land in the next cluster.
        if bytes.count < 1 << clusterBits {
            Self.append(Extension(type: Qcow2.ExtensionType.end, data: []), to: &bytes)
        }
        return bytes
    }

    private static func append(_ entry: Extension, to bytes: inout [UInt8]) {
        withUnsafeBytes(of: entry.type.bigEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: UInt32(entry.data.count).bigEndian) { bytes.append(contentsOf: $0) }
        bytes += entry.data
        bytes += repeatElement(0, count: (8 - entry.data.count % 8) % 8)
    }

    /// The extension that names all feature bits, so that a program can name those that it does not know.
    static var featureNameTable: Extension {
        let names: [(type: UInt8, bit: UInt8, name: String)] = [
            (0, 0, "dirty bit"), (0, 1, "corrupt bit"), (0, 2, "external data file"),
            (0, 3, "compression type"), (0, 4, "extended L2 entries"), (1, 0, "lazy refcounts"),
            (2, 0, "bitmaps"), (2, 1, "raw external data"),
        ]
        var data: [UInt8] = []
        for entry in names {
            data += [entry.type, entry.bit] + Array(entry.name.utf8)
            data += repeatElement(0, count: 46 - entry.name.utf8.count)
        }
        return Extension(type: Qcow2.ExtensionType.featureNames, data: data)
    }
}
