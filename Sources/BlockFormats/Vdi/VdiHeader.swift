import BlockCore

/// The header. Its fields are in VdiHeaderFields.swift.
struct VdiHeader: Sendable, Equatable {
    /// The bytes of all fields: one sector, which changes atomically.
    var bytes: [UInt8]

    var type = Vdi.ImageType.dynamic
    var mapOffset = 0
    var dataOffset = 0
    var virtualSize = 0
    var blockBytes = 0
    var blockExtraBytes = 0
    var blockCount = 0
    /// The number of taken blocks of the data area; the next block is appended behind them.
    var allocatedCount = 0

    /// The offset of the guest bytes of block number `index` of the data area, in bytes from the start of the
    /// file.
    func hostOffset(ofBlock index: Int) -> Int {
        dataOffset + index * (blockBytes + blockExtraBytes) + blockExtraBytes
    }

    var uuid: [UInt8] { Array(bytes[Self.uuidField.range]) }
    /// The ``uuid`` of the parent; all zeroes when there is no parent, or it is unknown.
    var parentUUID: [UInt8] { Array(bytes[Self.parentUUIDField.range]) }

    /// Errors are detected in QEMU's order, and reported in QEMU's words where it has the same ones.
    ///
    /// - Throws: `wrongFormat` for other files; `unsupported`; `corrupt` with the reason.
    static func parse(_ bytes: [UInt8]) throws(BlockError) -> VdiHeader {
        let span = bytes.span.bytes
        let signature = signatureField.number(in: span)
        let size = sizeField.number(in: span)
        guard size <= UInt64(Vdi.Limit.statedBytes) else {
            throw BlockError(
                signature == UInt64(Vdi.signature) ? .limit : .wrongFormat,
                "Unsupported VDI image size (size is 0x\(String(size, radix: 16)), max supported is "
                    + "0x\(String(Vdi.Limit.statedBytes, radix: 16)))")
        }
        guard signature == UInt64(Vdi.signature) else {
            let digits = String(signature, radix: 16)
            let padded = String(repeating: "0", count: 8 - digits.count) + digits
            throw BlockError(.wrongFormat, "Image not in VDI format (bad signature \(padded))")
        }
        guard bytes.count == Vdi.sectorBytes else {
            throw BlockError(.wrongFormat, "Image not in VDI format (its header is cut short)")
        }
        let version = versionField.number(in: span)
        guard version == UInt64(Vdi.version) else {
            throw BlockError(
                .unsupported, "unsupported VDI image (version \(version >> 16).\(version & 0xFFFF))")
        }
        // QEMU does not check the type: an unknown one is reported last.
        let stated = typeField.number(in: span)
        var header = VdiHeader(bytes: bytes)
        try header.readFields(span)
        try header.validate()
        guard stated == UInt64(header.type.rawValue) else {
            throw BlockError(.unsupported, "unsupported VDI image (image type \(stated))")
        }
        return header
    }

    private func validate() throws(BlockError) {
        for (what, offset) in [("block map", mapOffset), ("data", dataOffset)]
        where offset % Vdi.sectorBytes != 0 {
            let shown = "0x" + String(offset, radix: 16)
            throw BlockError(.corrupt, "unsupported VDI image (unaligned \(what) offset \(shown))")
        }
        guard blockBytes.isPowerOfTwo, Vdi.Limit.blockBytes.contains(blockBytes) else {
            throw BlockError(
                .unsupported, "unsupported VDI image (block size \(blockBytes) is not \(1 << 20))",
                hint: "Powers of two from 512 bytes to 256 MiB are supported.")
        }
        guard virtualSize <= blockCount * blockBytes else {
            let size = virtualSize.roundedUp(to: Vdi.sectorBytes) ?? virtualSize
            throw BlockError(
                .corrupt,
                "unsupported VDI image (disk size \(size), image bitmap has room for "
                    + "\(blockCount * blockBytes))")
        }
        guard blockCount <= Vdi.Limit.blocks else {
            throw BlockError(
                .limit,
                "unsupported VDI image (too many blocks \(blockCount), max is \(Vdi.Limit.blocks))")
        }
        guard blockExtraBytes <= Vdi.Limit.blockExtraBytes else {
            throw BlockError(.limit, "unsupported VDI image (\(blockExtraBytes) extra bytes a block)")
        }
        guard mapOffset >= Vdi.sectorBytes, mapOffset + blockCount * 4 <= dataOffset else {
            throw BlockError(
                .corrupt, "unsupported VDI image (the block map overlaps the header or the data)")
        }
    }

    /// The sector with the fields as they are now.
    func serialised() -> [UInt8] { fieldBytes(over: bytes) }
}
