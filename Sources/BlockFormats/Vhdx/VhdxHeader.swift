import BlockCore

/// The header ([MS-VHDX] 2.2.2), with two copies in the file; the one with the higher sequence number is
/// current.
struct VhdxHeader: Sendable, Equatable {
    private static let version = 1

    var sequence: UInt64 = 0
    /// Changes with every opening for writing.
    var fileWriteGUID = Vhdx.noGUID
    /// Changes with the guest's data; a child identifies its parent by it.
    var dataWriteGUID = Vhdx.noGUID
    /// The GUID of the valid entries in the log; all zeroes when there are none.
    var logGUID = Vhdx.noGUID
    var logVersion = 0
    var version = 1
    var logBytes = 0
    var logOffset = 0

    var hasLog: Bool { logGUID != Vhdx.noGUID }
    var logRange: Range<Int> { logOffset..<logOffset + logBytes }

    /// The header in `bytes`; `nil` when its signature or checksum is wrong.
    static func parse(_ bytes: RawSpan) throws(BlockError) -> VhdxHeader? {
        guard bytes.byteCount == Vhdx.headerBytes, signatureField.number(in: bytes) == signature,
            checksumField.isChecksum(of: bytes)
        else { return nil }
        var header = VhdxHeader()
        try header.readFields(bytes)
        return header
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
        var result = fieldBytes(count: Vhdx.headerBytes)
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        Self.checksumField.storeChecksum(in: &span)
        return result
    }
}

extension VhdxHeader: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    private static let signature: UInt64 = 0x6461_6568
    private static let signatureField = HeaderField<VhdxHeader>(
        "Signature", at: 0x00, width: 4, "`head`", value: { _ in signature })
    private static let checksumField = HeaderField<VhdxHeader>(
        "Checksum", at: 0x04, width: 4, "CRC-32C of 4096 bytes")

    static let allFields: [HeaderField<VhdxHeader>] = [
        signatureField, checksumField,
        HeaderField(
            "SequenceNumber", at: 0x08, width: 8, \.sequence, "the header with the higher one is current"),
        HeaderField("FileWriteGuid", at: 0x10, \.fileWriteGUID, "changes with every opening for writing"),
        HeaderField("DataWriteGuid", at: 0x20, \.dataWriteGUID, "changes with the guest's data"),
        HeaderField("LogGuid", at: 0x30, \.logGUID, "GUID of the valid log entries; zeroes for none"),
        HeaderField("LogVersion", at: 0x40, width: 2, \.logVersion, "0"),
        HeaderField("Version", at: 0x42, width: 2, \.version, "1"),
        HeaderField("LogLength", at: 0x44, width: 4, \.logBytes, "bytes of the log"),
        HeaderField(
            "LogOffset", at: 0x48, width: 8, "offset of the log, in bytes",
            value: { UInt64(clamping: $0.logOffset) }, take: { $0.logOffset = Int(clamping: $1) }),
    ]
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
            found.append(try VhdxHeader.parse(bytes.span.bytes))
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
