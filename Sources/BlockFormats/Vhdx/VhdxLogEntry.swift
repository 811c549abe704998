import BlockCore

/// An entry of the log ([MS-VHDX] 2.3.1): changes to the file that are made atomically. All little-endian.
///
/// ```
/// 00 "loge"  04 CRC-32C   08 entry length   0C tail   10 sequence number (8)   18 number of descriptors
/// 20 log GUID   30 flushed file length (8)   38 needed file length (8)   40 descriptors, 32 bytes each:
///    "desc" 04 last 4 bytes   08 first 8 bytes   10 file offset (8)   18 sequence number (8)
///    "zero" 04 zeroes         08 length (8)      10 file offset (8)   18 sequence number (8)
/// up to a multiple of 4096; then for each "desc" a page: "data" 04 sequence number, high half
///    08 bytes 8..<4092 of the page   FFC sequence number, low half
/// ```
struct VhdxLogEntry: Sendable, Equatable {
    static let signature = 0x6567_6F6C
    static let headerBytes = 64
    static let descriptorBytes = 32
    static let dataDescriptor = 0x6373_6564
    static let zeroDescriptor = 0x6F72_657A
    static let dataSignature = 0x6174_6164
    /// The number of descriptors that fit beside the header, so that Platter's entries have one page of them.
    static let pagesAtMost = (Vhdx.pageBytes - headerBytes) / descriptorBytes

    var length: Int
    /// The start of the sequence that this entry ends, in bytes from the start of the log.
    var tail: Int
    var sequence: UInt64
    var descriptorCount: Int
    var logGUID: ImageUUID
    var flushedFileBytes: UInt64
    var neededFileBytes: UInt64
    var checksum: UInt32

    /// The header of an entry in a log of `logBytes` bytes; `nil` when its fields are invalid.
    init?(_ bytes: RawSpan, guid: ImageUUID, logBytes: Int) {
        guard bytes.number32(0) == Self.signature, bytes.guid(at: 0x20) == guid else { return nil }
        length = bytes.number32(8)
        tail = bytes.number32(12)
        sequence = bytes.number64(16)
        descriptorCount = bytes.number32(24)
        logGUID = guid
        flushedFileBytes = bytes.number64(0x30)
        neededFileBytes = bytes.number64(0x38)
        checksum = UInt32(truncatingIfNeeded: bytes.number32(4))
        // The entry must have room for its descriptors; both numbers have 32 bits, so nothing overflows.
        guard length >= Vhdx.pageBytes, length % Vhdx.pageBytes == 0, length <= logBytes,
            tail % Vhdx.pageBytes == 0, tail < logBytes, sequence > 0,
            Self.headerBytes + descriptorCount * Self.descriptorBytes <= length
        else { return nil }
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
        span.storeLittleEndian(UInt32(signature), at: 0)
        span.storeLittleEndian(UInt32(buffer.count), at: 8)
        span.storeLittleEndian(UInt32(place), at: 12)
        span.storeLittleEndian(sequence, at: 16)
        span.storeLittleEndian(UInt32(pages.count), at: 24)
        span.store(guid, at: 0x20)
        span.storeLittleEndian(UInt64(flushed), at: 0x30)
        span.storeLittleEndian(UInt64(needed), at: 0x38)
        for (index, page) in pages.enumerated() {
            store(page, sequence, headerBytes + index * descriptorBytes, (index + 1) * Vhdx.pageBytes, &span)
        }
        span.storeLittleEndian(buffer.bytes.crc32c(zeroing: 4) ?? 0, at: 4)
        return buffer
    }

    /// A descriptor and its data page.
    private static func store(
        _ page: VhdxPage, _ sequence: UInt64, _ descriptor: Int, _ data: Int, _ span: inout MutableRawSpan
    ) {
        let bytes = page.bytes.span.bytes
        let end = Vhdx.pageBytes - 4
        span.storeLittleEndian(UInt32(dataDescriptor), at: descriptor)
        span.storeLittleEndian(UInt32(bytes.number32(end)), at: descriptor + 4)
        span.storeLittleEndian(bytes.number64(0), at: descriptor + 8)
        span.storeLittleEndian(UInt64(page.offset), at: descriptor + 16)
        span.storeLittleEndian(sequence, at: descriptor + 24)
        span.copy(from: bytes, at: data)
        span.storeLittleEndian(UInt32(dataSignature), at: data)
        span.storeLittleEndian(UInt32(sequence >> 32), at: data + 4)
        span.storeLittleEndian(UInt32(truncatingIfNeeded: sequence), at: data + end)
    }
}
