import BlockCore

/// Apple's disk images (UDIF, `.dmg`): chunks that are zero, stored, or compressed in one of five ways.
///
/// Read only.
///
/// Thread-safe: the cache of decompressed chunks has a lock, which is not held during decompression.
public final class DmgDriver: ReadOnlyFormat {
    public static let name = "dmg"

    let file: BlockNode
    let trailer: DmgTrailer
    let tables: DmgTables
    let decoder: DmgDecoder
    public let virtualSize: Int

    private init(file: BlockNode, trailer: DmgTrailer, tables: DmgTables) {
        self.file = file
        self.trailer = trailer
        self.tables = tables
        decoder = DmgDecoder(file: file)
        virtualSize = trailer.virtualSize > 0 ? trailer.virtualSize : tables.end
    }

    /// Matches encrypted images only, by their first bytes, so that opening one reports that encryption is
    /// not supported.
    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.part(0..<Dmg.encryptedStart.count)?.array == Dmg.encryptedStart ? 90 : 0
    }

    public static var suffixesKnownByEnd: [String] { [".dmg"] }

    public static func probe(tail: RawSpan, filename: String) -> Int {
        if DmgTrailer.find(in: tail) != nil { return 95 }
        return DmgTrailer.isEncrypted(start: tail.extracting(0..<0), tail: tail) ? 90 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`, `readOnly`; `io`.
    public static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> DmgDriver
    {
        do throws(BlockError) {
            try refuseWriting(request)
            let trailer = try DmgTrailer.read(request.file)
            let tables = try DmgTables.read(request.file, trailer)
            return DmgDriver(file: request.file, trailer: trailer, tables: tables)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    // MARK: Mapping

    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let chunks = tables.chunks
        let number = firstChunk(endingAfter: offset)
        guard number < chunks.count, chunks[number].start <= offset else {
            // No table describes these sectors: reading them fails, because their contents are unknown.
            let end = number < chunks.count ? chunks[number].start : virtualSize
            return Extent(.encoded(compressed: false), length: min(limit, end - offset))
        }
        let first = chunks[number]
        var last = number
        while chunks[last].end - offset < limit, last + 1 < chunks.count,
            Self.continues(chunks[last], chunks[last + 1])
        {
            last += 1
        }
        return Extent(Self.status(first, offset), length: min(limit, chunks[last].end - offset))
    }

    private func firstChunk(endingAfter offset: Int) -> Int {
        var low = 0
        var high = tables.chunks.count
        while low < high {
            let middle = (low + high) / 2
            if tables.chunks[middle].end > offset { high = middle } else { low = middle + 1 }
        }
        return low
    }

    /// Whether a chunk continues the run of the one before.
    private static func continues(_ chunk: DmgChunk, _ next: DmgChunk) -> Bool {
        guard chunk.end == next.start, let encoding = chunk.encoding, let other = next.encoding else {
            return false
        }
        if encoding == .raw { return other == .raw && chunk.offset + chunk.length == next.offset }
        return encoding.isZero == other.isZero && other != .raw
    }

    private static func status(_ chunk: DmgChunk, _ offset: Int) -> Extent.Status {
        switch chunk.encoding {
        case .zero, .ignored: .zero(hostOffset: nil)
        case .raw: .data(hostOffset: chunk.offset + offset - chunk.start)
        default: .encoded(compressed: true)
        }
    }

    // MARK: Reading

    /// - Throws: `corrupt`, `unsupported` for an unknown encoding, `limit`, `io`.
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let end = offset + buffer.byteCount
        var position = offset
        var number = firstChunk(endingAfter: offset)
        var busy: [Int] = []
        while position < end {
            let chunk = try chunk(number, at: position)
            // Chunks that other threads decompress are read last, so that concurrent requests do not wait for
            // each other in turn.
            if !(try read(number, chunk, into: &buffer, at: offset, waits: false)) { busy.append(number) }
            position = chunk.end
            number += 1
        }
        for number in busy {
            _ = try read(number, tables.chunks[number], into: &buffer, at: offset, waits: true)
        }
    }

    /// The chunk of that number, which must contain the byte at `position` and have a known encoding.
    private func chunk(_ number: Int, at position: Int) throws(BlockError) -> DmgChunk {
        guard number < tables.chunks.count, tables.chunks[number].start <= position else {
            throw BlockError(
                .corrupt, "Nothing describes sector \(position / Dmg.sectorBytes)", path: file.filename)
        }
        let chunk = tables.chunks[number]
        guard chunk.encoding != nil else {
            throw BlockError(
                .unsupported,
                "The chunk of sector \(chunk.start / Dmg.sectorBytes) is compressed in an unknown way "
                    + "(0x\(String(chunk.type, radix: 16)))", path: file.filename)
        }
        return chunk
    }

    /// Copies the part of the chunk that overlaps `buffer`, whose bytes start at `offset` of the disk.
    ///
    /// - Returns: `false` when another thread is decompressing it (only when not waiting).
    private func read(
        _ number: Int, _ chunk: DmgChunk, into buffer: inout MutableRawSpan, at offset: Int, waits: Bool
    ) throws(BlockError) -> Bool {
        let start = max(chunk.start, offset)
        let end = min(chunk.end, offset + buffer.byteCount)
        var target = buffer.slice(start - offset..<end - offset)
        if target.byteCount == chunk.count, decoder.cache.isUnknown(number) {
            try decoder.decompress(chunk, into: &target)
            return true
        }
        guard let bytes = try claim(number, chunk, waits: waits) else { return false }
        target.copy(from: bytes.bytes(start - chunk.start..<end - chunk.start))
        _ = consume bytes
        decoder.cache.release(number)
        return true
    }

    private func claim(_ number: Int, _ chunk: DmgChunk, waits: Bool) throws(BlockError) -> AlignedBuffer? {
        switch try decoder.cache.claim(number, waits: waits) {
        case .busy: return nil
        case .ready(let buffer): return buffer
        case .mine:
            do throws(BlockError) {
                let buffer = try decoder.decompressed(chunk)
                decoder.cache.finish(number, .success(buffer))
                return buffer
            } catch {
                decoder.cache.finish(number, .failure(error))
                throw error
            }
        }
    }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        let used = Set(tables.chunks.compactMap(\.encoding)).sorted { $0.rawValue < $1.rawValue }
        return FormatInfo(
            specific: [
                InfoField("chunks", .number(tables.chunks.count)),
                InfoField("encodings", .list(used.map { .text($0.name) })),
            ])
    }
}
