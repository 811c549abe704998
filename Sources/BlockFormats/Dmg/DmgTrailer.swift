import BlockCore

/// The trailer at the end of the file, which locates everything else. Big-endian:
///
/// ```
/// 000 'koly'  004 version (4)  008 size (512)  00C flags  010 offset of the running data fork
/// 018 data fork: offset, length  028 resource fork: offset, length
/// 038 segment: number, count, identifier (16)  050 checksum of the data fork (136)
/// 0D8 property list: offset, length  160 checksum of the tables' checksums (136)
/// 1E8 variant  1EC sectors of the disk  (numbers of 8 bytes, but for the segment's)
/// ```
struct DmgTrailer {
    /// The offset of the trailer in the file, in bytes.
    var offset: Int
    /// The base of the chunks' offsets, in bytes of the file.
    var dataOffset: Int
    var dataFork: Range<Int>
    var resourceFork: Range<Int>
    var propertyList: Range<Int>
    var dataChecksum: DmgChecksum
    var masterChecksum: DmgChecksum
    var virtualSize: Int

    /// The offset of the trailer in the last bytes of a file: the last place that looks like one.
    static func find(in tail: RawSpan) -> Int? {
        var place = tail.byteCount - Dmg.trailerBytes
        while place >= 0 {
            let magic: UInt32? = tail.bigEndian(at: place)
            let size: UInt32? = tail.bigEndian(at: place + 8)
            if magic == Dmg.trailerMagic, size == UInt32(Dmg.trailerBytes) { return place }
            place -= 1
        }
        return nil
    }

    /// Reads the trailer and validates it against the file.
    static func read(_ file: BlockNode) throws(BlockError) -> DmgTrailer {
        let length = try file.length()
        let count = min(length, Dmg.tailBytes)
        let tail = try file.readBytes(at: length - count, count: count)
        let start = try file.readBytes(at: 0, count: min(length, Dmg.encryptedStart.count))
        guard !isEncrypted(start: start.span.bytes, tail: tail.span.bytes) else {
            throw BlockError(.unsupported, "Encrypted disk images of Apple's are not supported")
        }
        let span = tail.span.bytes
        guard let place = find(in: span), let bytes = span.part(place..<place + Dmg.trailerBytes) else {
            throw BlockError(
                .wrongFormat,
                "Image not in dmg format: it has no trailer (the end of the file may be missing)")
        }
        return try DmgTrailer(bytes, at: length - count + place)
    }

    static func isEncrypted(start: RawSpan, tail: RawSpan) -> Bool {
        let end = Dmg.encryptedEnd
        return start.part(0..<Dmg.encryptedStart.count)?.array == Dmg.encryptedStart
            || tail.part(tail.byteCount - end.count..<tail.byteCount)?.array == end
    }

    private init(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        self.offset = offset
        func range(_ place: Int, _ what: String) throws(BlockError) -> Range<Int> {
            let start: UInt64 = bytes.bigEndian(at: place) ?? 0
            let length: UInt64 = bytes.bigEndian(at: place + 8) ?? 0
            if length == 0 { return 0..<0 }
            guard start <= UInt64(offset), length <= UInt64(offset) - start else {
                throw BlockError(.corrupt, "The \(what) is outside the image (\(length) bytes at \(start))")
            }
            return Int(start)..<Int(start + length)
        }
        let segments: UInt32 = bytes.bigEndian(at: 0x3C) ?? 0
        let segment: UInt32 = bytes.bigEndian(at: 0x38) ?? 0
        guard segments <= 1 else {
            throw BlockError(
                .unsupported,
                "The file is segment \(segment) of a disk image in \(segments) files, which is not supported")
        }
        let sectors: UInt64 = bytes.bigEndian(at: 0x1EC) ?? 0
        guard sectors <= UInt64(Dmg.Limit.sectors) else {
            throw BlockError(.limit, "The disk is too large (\(sectors) sectors)")
        }
        virtualSize = Int(sectors) * Dmg.sectorBytes
        let dataStart: UInt64 = bytes.bigEndian(at: 0x18) ?? 0
        guard dataStart <= UInt64(offset) else {
            throw BlockError(.corrupt, "The data fork is outside the image (at \(dataStart))")
        }
        dataOffset = Int(dataStart)
        dataFork = try range(0x18, "data fork")
        resourceFork = try range(0x28, "resource fork")
        propertyList = try range(0xD8, "property list")
        dataChecksum = DmgChecksum(bytes, at: 0x50)
        masterChecksum = DmgChecksum(bytes, at: 0x160)
    }
}
