import BlockCore

/// An entry of the log ([MS-VHDX] 2.3.1): changes to the file that are made atomically. The header is
/// followed by descriptors, up to a multiple of 4096 bytes, and then by a page for each descriptor of data.
struct VhdxLogEntry: Sendable, Equatable {
    static let headerBytes = 64
    static let descriptorBytes = 32
    /// The number of descriptors that fit beside the header, so that Platter's entries have one page of them.
    static let pagesAtMost = (Vhdx.pageBytes - headerBytes) / descriptorBytes

    var length = 0
    /// The start of the sequence that this entry ends, in bytes from the start of the log.
    var tail = 0
    var sequence: UInt64 = 0
    var descriptorCount = 0
    var logGUID = Vhdx.noGUID
    var flushedFileBytes: UInt64 = 0
    var neededFileBytes: UInt64 = 0
    var checksum: UInt32 = 0

    /// The header of an entry in a log of `logBytes` bytes; `nil` when its fields are invalid.
    static func parse(_ bytes: RawSpan, guid: ImageUUID, logBytes: Int) throws(BlockError) -> VhdxLogEntry? {
        guard signatureField.number(in: bytes) == signature, guidField.uuid(in: bytes) == guid else {
            return nil
        }
        var entry = VhdxLogEntry()
        try entry.readFields(bytes)
        // The entry must have room for its descriptors; both numbers have 32 bits, so nothing overflows.
        guard entry.length >= Vhdx.pageBytes, entry.length % Vhdx.pageBytes == 0, entry.length <= logBytes,
            entry.tail % Vhdx.pageBytes == 0, entry.tail < logBytes, entry.sequence > 0,
            headerBytes + entry.descriptorCount * descriptorBytes <= entry.length
        else { return nil }
        return entry
    }

    /// The start of the data pages in the entry, in bytes.
    var dataOffset: Int {
        let used = Self.headerBytes + descriptorCount * Self.descriptorBytes
        return (used + Vhdx.pageBytes - 1) / Vhdx.pageBytes * Vhdx.pageBytes
    }
}

/// A page of the file with its new contents.
struct VhdxPage: Sendable, Equatable {
    var offset: Int
    var bytes: [UInt8]
}

extension VhdxLogEntry {
    /// An entry that changes `pages`, at most ``pagesAtMost``, and begins its own sequence.
    ///
    /// - Parameters:
    ///   - place: its offset in the log, in bytes.
    ///   - flushed: the durable length of the file, in bytes.
    ///   - needed: the length of the file that its contents need, in bytes.
    static func make(
        _ pages: [VhdxPage], sequence: UInt64, at place: Int, guid: ImageUUID, flushed: Int, needed: Int
    ) -> AlignedBuffer {
        let buffer = AlignedBuffer(count: (pages.count + 1) * Vhdx.pageBytes, zeroed: true)
        var span = buffer.mutableBytes
        let entry = VhdxLogEntry(
            length: buffer.count, tail: place, sequence: sequence, descriptorCount: pages.count,
            logGUID: guid, flushedFileBytes: UInt64(flushed), neededFileBytes: UInt64(needed))
        entry.writeFields(to: &span)
        for (index, page) in pages.enumerated() {
            let place = headerBytes + index * descriptorBytes
            var descriptor = span.slice(place..<place + descriptorBytes)
            VhdxLogDescriptor.store(page, sequence, in: &descriptor)
            let data = (index + 1) * Vhdx.pageBytes
            var room = span.slice(data..<data + Vhdx.pageBytes)
            VhdxLogData.store(page, sequence, in: &room)
        }
        checksumField.storeChecksum(in: &span)
        return buffer
    }
}

extension VhdxLogEntry: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    private static let signature: UInt64 = 0x6567_6F6C
    private static let signatureField = HeaderField<VhdxLogEntry>(
        "Signature", at: 0, width: 4, "`loge`", value: { _ in signature })
    static let checksumField = HeaderField<VhdxLogEntry>(
        "Checksum", at: 4, width: 4, \.checksum, "CRC-32C of the entry")
    private static let guidField = HeaderField<VhdxLogEntry>(
        "LogGuid", at: 32, \.logGUID, "that of the header; otherwise the entry is an old one")

    static let allFields: [HeaderField<VhdxLogEntry>] = [
        signatureField, checksumField,
        HeaderField("EntryLength", at: 8, width: 4, \.length, "bytes of the entry: whole pages of 4096"),
        HeaderField(
            "Tail", at: 12, width: 4, \.tail, "start of the sequence that ends here, in bytes of the log"),
        HeaderField("SequenceNumber", at: 16, width: 8, \.sequence, "that of the entry before, and 1"),
        HeaderField("DescriptorCount", at: 24, width: 4, \.descriptorCount, "descriptors, of 32 bytes each"),
        HeaderField("Reserved", at: 28, width: 4, "0"),
        guidField,
        HeaderField(
            "FlushedFileOffset", at: 48, width: 8, \.flushedFileBytes,
            "length of the file at that time, in bytes"),
        HeaderField(
            "LastFileOffset", at: 56, width: 8, \.neededFileBytes,
            "length that its contents need, in bytes"),
    ]
}

/// A descriptor of an entry of the log ([MS-VHDX] 2.3.1.2, 2.3.1.3): a change of the file, by a page of data
/// or by zeroes.
enum VhdxLogDescriptor: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    static let data: UInt64 = 0x6373_6564
    static let zero: UInt64 = 0x6F72_657A
    static let signatureField = HeaderField<Self>("Signature", at: 0, width: 4, "`desc` or `zero`")
    static let trailingField = HeaderField<Self>(
        "TrailingBytes", at: 4, width: 4, "`desc`: the last bytes of the page")
    static let leadingField = HeaderField<Self>(
        "LeadingBytes or ZeroLength", at: 8, width: 8,
        "`desc`: the first bytes of the page; `zero`: the number of zeroes")
    static let offsetField = HeaderField<Self>("FileOffset", at: 16, width: 8, "offset in the file, in bytes")
    static let sequenceField = HeaderField<Self>("SequenceNumber", at: 24, width: 8, "that of the entry")

    static let allFields = [signatureField, trailingField, leadingField, offsetField, sequenceField]

    static func store(_ page: VhdxPage, _ sequence: UInt64, in bytes: inout MutableRawSpan) {
        let contents = page.bytes.span.bytes
        signatureField.store(data, in: &bytes)
        trailingField.store(UInt64(contents.number32(Vhdx.pageBytes - trailingField.width)), in: &bytes)
        leadingField.store(contents.number64(0), in: &bytes)
        offsetField.store(UInt64(page.offset), in: &bytes)
        sequenceField.store(sequence, in: &bytes)
    }
}

/// A page of data in an entry of the log ([MS-VHDX] 2.3.1.4). Its first and last bytes are in the descriptor.
enum VhdxLogData: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    private static let signature: UInt64 = 0x6174_6164
    private static let signatureField = HeaderField<Self>("DataSignature", at: 0, width: 4, "`data`")
    private static let highField = HeaderField<Self>(
        "SequenceHigh", at: 4, width: 4, "high half of the sequence number")
    private static let lowField = HeaderField<Self>(
        "SequenceLow", at: 4092, width: 4, "low half of the sequence number")

    static let allFields = [
        signatureField, highField, HeaderField("Data", at: 8, width: 4084, "bytes 8 to 4091 of the page"),
        lowField,
    ]

    static func store(_ page: VhdxPage, _ sequence: UInt64, in bytes: inout MutableRawSpan) {
        bytes.copy(from: page.bytes.span.bytes)
        signatureField.store(signature, in: &bytes)
        highField.store(sequence >> 32, in: &bytes)
        lowField.store(sequence, in: &bytes)
    }

    /// Whether `bytes` are a page of the entry with that sequence number.
    static func isPage(_ bytes: RawSpan, ofEntry sequence: UInt64) -> Bool {
        signatureField.number(in: bytes) == signature && highField.number(in: bytes) == sequence >> 32
            && lowField.number(in: bytes) == sequence & 0xFFFF_FFFF
    }

    /// The page that `bytes` and its descriptor describe.
    static func page(_ bytes: [UInt8], _ descriptor: RawSpan) -> [UInt8] {
        var result = bytes
        typealias Descriptor = VhdxLogDescriptor
        result.replaceSubrange(
            0..<Descriptor.leadingField.width, with: Descriptor.leadingField.bytes(in: descriptor))
        result.replaceSubrange(lowField.range, with: Descriptor.trailingField.bytes(in: descriptor))
        return result
    }
}
