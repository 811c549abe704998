import BlockCore

/// The header ([MS-VHDX] 2.2.2), with two copies in the file; the one with the higher sequence number is
/// current. All little-endian:
///
/// ```
/// 00 "head"   04 CRC-32C   08 sequence number   10 file write GUID   20 data write GUID   30 log GUID
/// 40 log version   42 version   44 log length   48 log offset   50 zeroes up to 4096
/// ```
struct VhdxHeader: Sendable, Equatable {
    private static let signature = 0x6461_6568
    private static let version = 1

    var sequence: UInt64
    /// Changes with every opening for writing.
    var fileWriteGUID: ImageUUID
    /// Changes with the guest's data; a child identifies its parent by it.
    var dataWriteGUID: ImageUUID
    /// The GUID of the valid entries in the log; all zeroes when there are none.
    var logGUID: ImageUUID
    var logVersion = 0
    var version = 1
    var logBytes: Int
    var logOffset: Int

    var hasLog: Bool { logGUID != Vhdx.noGUID }
    var logRange: Range<Int> { logOffset..<logOffset + logBytes }

    /// The header in `bytes`; `nil` when its signature or checksum is wrong.
    static func parse(_ bytes: RawSpan) -> VhdxHeader? {
        let sum: UInt32? = bytes.littleEndian(at: 4)
        guard bytes.byteCount == Vhdx.headerBytes, bytes.number32(0) == signature,
            let sum, bytes.crc32c(zeroing: 4) == sum
        else { return nil }
        let versions = bytes.number32(0x40)
        return VhdxHeader(
            sequence: bytes.number64(8), fileWriteGUID: bytes.guid(at: 0x10),
            dataWriteGUID: bytes.guid(at: 0x20), logGUID: bytes.guid(at: 0x30),
            logVersion: versions & 0xFFFF, version: versions >> 16, logBytes: bytes.number32(0x44),
            logOffset: Int(clamping: bytes.number64(0x48)))
    }

    /// - Throws: `unsupported` for other versions; `corrupt` for a log outside the file's layout.
    func validate() throws(BlockError) {
        guard version == Self.version else {
            throw BlockError(.unsupported, "Unsupported VHDX version \(version)")
        }
        guard logOffset % Vhdx.unitBytes == 0, logBytes % Vhdx.unitBytes == 0,
            (Vhdx.unitBytes...Vhdx.Limit.fileBytes).contains(logOffset) || logBytes == 0
        else { throw BlockError(.corrupt, "The VHDX log is misplaced (\(logBytes) bytes at \(logOffset))") }
        guard hasLog else { return }
        guard logVersion == 0 else {
            throw BlockError(.unsupported, "Unsupported version \(logVersion) of the VHDX log")
        }
    }

    /// The bytes of the header, with their checksum.
    func serialised() -> [UInt8] {
        var result = [UInt8](repeating: 0, count: Vhdx.headerBytes)
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        span.storeLittleEndian(UInt32(Self.signature), at: 0)
        span.storeLittleEndian(sequence, at: 8)
        span.store(fileWriteGUID, at: 0x10)
        span.store(dataWriteGUID, at: 0x20)
        span.store(logGUID, at: 0x30)
        span.storeLittleEndian(UInt32(logVersion | version << 16), at: 0x40)
        span.storeLittleEndian(UInt32(logBytes), at: 0x44)
        span.storeLittleEndian(UInt64(logOffset), at: 0x48)
        let sum = span.bytes.crc32c(zeroing: 4) ?? 0
        span.storeLittleEndian(sum, at: 4)
        return result
    }
}

/// Both copies of the header, and the choice of the current one.
struct VhdxHeaders: Sendable {
    /// The current header.
    private(set) var current: VhdxHeader
    /// The number of the place that holds it, 0 or 1.
    private var place: Int
    /// Whether the other place has a header too.
    private(set) var bothAreValid: Bool

    /// Reads both copies.
    ///
    /// - Throws: `corrupt` when neither is valid, or both have the same number and differ.
    init(reading file: BlockNode) throws(BlockError) {
        var found: [VhdxHeader?] = []
        for offset in Vhdx.headerOffsets {
            let bytes = try file.readBytes(at: offset, count: Vhdx.headerBytes)
            found.append(VhdxHeader.parse(bytes.span.bytes))
        }
        switch (found[0], found[1]) {
        case (nil, nil): throw BlockError(.corrupt, "The VHDX image has no valid header")
        case (let first?, nil): (current, place, bothAreValid) = (first, 0, false)
        case (nil, let second?): (current, place, bothAreValid) = (second, 1, false)
        case (let first?, let second?):
            // Disk2vhd writes two equal headers.
            guard first.sequence != second.sequence || first == second else {
                throw BlockError(.corrupt, "Both headers of the VHDX image have the same sequence number")
            }
            let isSecond = second.sequence > first.sequence
            (current, place, bothAreValid) = (isSecond ? second : first, isSecond ? 1 : 0, true)
        }
        try current.validate()
    }

    /// Makes `header` the current one: it is written to the other place with the next sequence number.
    /// Durable on return. After a crash in between, the old header is still current.
    mutating func replace(with header: VhdxHeader, in file: BlockNode) throws(BlockError) {
        var next = header
        let (sequence, overflow) = current.sequence.addingReportingOverflow(1)
        guard !overflow else {
            throw BlockError(.unsupported, "The sequence numbers of the VHDX headers are used up")
        }
        next.sequence = sequence
        let bytes = next.serialised()
        try file.write(bytes.span.bytes, at: Vhdx.headerOffsets[1 - place])
        try file.flush()
        current = next
        place = 1 - place
        bothAreValid = true
    }
}
