import BlockCore

/// The header, all little-endian:
///
/// ```
/// 000 text of the creator     040 signature  044 version    048 header size  04C image type
/// 050 flags                   054 comment (256)             154 map offset   158 data offset
/// 15C cylinders, heads, sectors, sector size                170 disk size (8)
/// 178 block size  17C extra   180 blocks     184 allocated
/// 188 UUIDs: image, its last change, parent, the parent's last change
/// ```
struct VdiHeader: Sendable, Equatable {
    /// The bytes of all fields: one sector, which changes atomically.
    var bytes: [UInt8]

    var type: Vdi.ImageType
    var mapOffset: Int
    var dataOffset: Int
    var virtualSize: Int
    var blockBytes: Int
    var blockExtraBytes: Int
    var blockCount: Int
    /// The number of taken blocks of the data area; the next block is appended behind them.
    var allocatedCount: Int

    /// The offset of the guest bytes of block number `index` of the data area, in bytes from the start of the
    /// file.
    func hostOffset(ofBlock index: Int) -> Int {
        dataOffset + index * (blockBytes + blockExtraBytes) + blockExtraBytes
    }

    var uuid: [UInt8] { Array(bytes[0x188..<0x198]) }
    /// The ``uuid`` of the parent; all zeroes when there is no parent, or it is unknown.
    var parentUUID: [UInt8] { Array(bytes[0x1A8..<0x1B8]) }

    /// Errors are detected in QEMU's order, and reported in QEMU's words where it has the same ones.
    ///
    /// - Throws: `wrongFormat` for other files; `unsupported`; `corrupt` with the reason.
    static func parse(_ bytes: [UInt8]) throws(BlockError) -> VdiHeader {
        let span = bytes.span.bytes
        let signature = UInt32(span.number(Vdi.signatureOffset))
        let size: UInt64 = span.littleEndian(at: 0x170) ?? 0
        guard size <= UInt64(Vdi.Limit.statedBytes) else {
            throw BlockError(
                signature == Vdi.signature ? .limit : .wrongFormat,
                "Unsupported VDI image size (size is 0x\(String(size, radix: 16)), max supported is "
                    + "0x\(String(Vdi.Limit.statedBytes, radix: 16)))")
        }
        guard signature == Vdi.signature else {
            let digits = String(signature, radix: 16)
            let padded = String(repeating: "0", count: 8 - digits.count) + digits
            throw BlockError(.wrongFormat, "Image not in VDI format (bad signature \(padded))")
        }
        guard bytes.count == Vdi.sectorBytes else {
            throw BlockError(.wrongFormat, "Image not in VDI format (its header is cut short)")
        }
        let version = span.number(0x44)
        guard version == Int(Vdi.version) else {
            throw BlockError(
                .unsupported, "unsupported VDI image (version \(version >> 16).\(version & 0xFFFF))")
        }
        // QEMU does not check the type: an unknown one is reported last.
        let stated = UInt32(span.number(0x4C))
        let header = VdiHeader(
            bytes: bytes, type: Vdi.ImageType(rawValue: stated) ?? .dynamic,
            mapOffset: span.number(0x154), dataOffset: span.number(0x158),
            virtualSize: Int(size), blockBytes: span.number(0x178), blockExtraBytes: span.number(0x17C),
            blockCount: span.number(0x180), allocatedCount: span.number(0x184))
        try header.validate()
        guard Vdi.ImageType(rawValue: stated) != nil else {
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
    func serialised() -> [UInt8] {
        var result = bytes
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        for (value, place) in [
            (Int(type.rawValue), 0x4C), (mapOffset, 0x154), (dataOffset, 0x158), (blockBytes, 0x178),
            (blockExtraBytes, 0x17C), (blockCount, 0x180), (allocatedCount, 0x184),
        ] {
            span.storeLittleEndian(UInt32(value), at: place)
        }
        span.storeLittleEndian(UInt64(virtualSize), at: 0x170)
        return result
    }
}

extension RawSpan {
    /// The 32-bit little-endian number at `offset`, 0 past the end.
    fileprivate func number(_ offset: Int) -> Int {
        let value: UInt32? = littleEndian(at: offset)
        return Int(value ?? 0)
    }
}
