import BlockCore

/// The header of a qcow2 image (sections "Header" and "Header extensions"). Its fields are in
/// Qcow2HeaderFields.swift.
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
    /// The offset of the backing name in the file; 0 for none.
    var backingOffset = 0
    var backing: BackingReference?
    /// The bytes of the stored name; the text's length differs where the name is not UTF-8.
    var backingNameBytes = 0
    /// All extensions but the end marker and the backing format, in the order of the file.
    var extensions: [Extension] = []
    /// Header fields that are unknown to this program, kept unchanged.
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
    /// The user's choice for this session, in place of the header's bit; never stored.
    var wantsLazyRefcounts: Bool?
    var hasLazyRefcounts: Bool {
        wantsLazyRefcounts ?? (compatible & Qcow2.Compatible.lazyRefcounts != 0)
    }

    func extensionData(_ type: UInt32) -> [UInt8]? { extensions.first { $0.type == type }?.data }

    /// The name of the external data file; `nil` where the image states none.
    var dataFileName: String? {
        guard incompatible.contains(.dataFile) else { return nil }
        return extensionData(Qcow2.ExtensionType.dataFile).map { String(raw: $0) }
    }
    /// Whether the data file must always read as the disk, without the image.
    var keepsDataFileRaw: Bool {
        incompatible.contains(.dataFile) && autoclear & Qcow2.Autoclear.dataFileRaw != 0
    }

    // MARK: Reading

    /// Reads a header from the first cluster of a file, or from all bytes of a shorter file.
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
        for field in commonFields { try field.read(bytes, into: &header) }
        if version == 2 {
            header.headerLength = version2Length
        } else {
            try header.readVersion3Fields(bytes)
        }
        return header
    }

    private mutating func readVersion3Fields(_ bytes: RawSpan) throws(BlockError) {
        let length = Self.lengthField.number(in: bytes)
        guard bytes.byteCount >= Self.version3MinimumLength, length >= Self.version3MinimumLength else {
            throw BlockError(.corrupt, "qcow2 header too short")
        }
        guard length <= 1 << clusterBits, length <= bytes.byteCount else {
            throw BlockError(.corrupt, "qcow2 header exceeds cluster size")
        }
        for field in Self.version3Fields { try field.read(bytes, into: &self) }
        if headerLength > Self.version3MinimumLength {
            try Self.compressionField.read(bytes, into: &self)
        }
        if headerLength > Self.knownLength {
            unknownFields = bytes.part(Self.knownLength..<headerLength)?.array ?? []
        }
    }

    // MARK: Writing

    /// The fixed fields as stored at the start of the file: less than a sector, so they change atomically.
    func fixedBytes() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: headerLength)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        for field in Self.identity + Self.commonFields { field.write(self, to: &span) }
        if version >= 3 { writeVersion3Fields(to: &span) }
        return bytes
    }

    private func writeVersion3Fields(to span: inout MutableRawSpan) {
        for field in Self.version3Fields { field.write(self, to: &span) }
        if headerLength > Self.version3MinimumLength { Self.compressionField.write(self, to: &span) }
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
        // Extensions that fill the cluster need no end marker, which would lie in the next cluster.
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

    /// The extension with the names of all feature bits: a program can then name a bit that it does not know.
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
