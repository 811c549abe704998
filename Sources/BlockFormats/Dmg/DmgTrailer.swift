import BlockCore

/// The trailer at the end of the file, which locates everything else. Its fields are in
/// DmgHeaderFields.swift.
struct DmgTrailer: Sendable {
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
            if Field.signature.number(in: tail, from: place) == UInt64(Dmg.trailerMagic),
                Field.size.number(in: tail, from: place) == UInt64(Dmg.trailerBytes)
            {
                return place
            }
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
        func range(
            _ first: HeaderField<Self>, _ second: HeaderField<Self>, _ what: String
        ) throws(BlockError) -> Range<Int> {
            let (start, length) = (first.number(in: bytes), second.number(in: bytes))
            if length == 0 { return 0..<0 }
            guard start <= UInt64(offset), length <= UInt64(offset) - start else {
                throw BlockError(.corrupt, "The \(what) is outside the image (\(length) bytes at \(start))")
            }
            return Int(start)..<Int(start + length)
        }
        let segments = Field.segmentCount.number(in: bytes)
        let segment = Field.segment.number(in: bytes)
        guard segments <= 1 else {
            throw BlockError(
                .unsupported,
                "The file is segment \(segment) of a disk image in \(segments) files, which is not supported")
        }
        let sectors = Field.sectors.number(in: bytes)
        guard sectors <= UInt64(Dmg.Limit.sectors) else {
            throw BlockError(.limit, "The disk is too large (\(sectors) sectors)")
        }
        virtualSize = Int(sectors) * Dmg.sectorBytes
        let dataStart = Field.dataOffset.number(in: bytes)
        guard dataStart <= UInt64(offset) else {
            throw BlockError(.corrupt, "The data fork is outside the image (at \(dataStart))")
        }
        dataOffset = Int(dataStart)
        dataFork = try range(Field.dataOffset, Field.dataLength, "data fork")
        resourceFork = try range(Field.resourceOffset, Field.resourceLength, "resource fork")
        propertyList = try range(Field.listOffset, Field.listLength, "property list")
        dataChecksum = DmgChecksum(bytes, at: Field.dataChecksum.offset)
        masterChecksum = DmgChecksum(bytes, at: Field.masterChecksum.offset)
    }
}
