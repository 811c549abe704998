import BlockCore

/// Finds the valid sequence of entries in a log, and replays its changes.
///
/// The bytes read and checksummed are limited to a few times the length of the log, even when it is damaged.
struct VhdxLogReplay {
    /// How many times the log's length may be read because of damaged entries.
    private static let readings = 4
    private static let readBytes = 1 << 20
    /// The largest number of entries that the search for the sequence visits.
    private static let mostSteps = 1 << 20

    private struct Found {
        var offset: Int
        var entry: VhdxLogEntry
    }

    private let file: BlockNode
    private let header: VhdxHeader
    private var bytesLeft: Int
    /// The entries of the valid sequence, oldest first.
    private var sequence: [Found] = []

    /// Reads the log of `header`, which must not be empty.
    ///
    /// - Throws: `limit` for a log that is too long; `corrupt` when no entry is valid, or the file was cut
    ///   since; `io`.
    init(file: BlockNode, header: VhdxHeader) throws(BlockError) {
        self.file = file
        self.header = header
        guard header.logBytes <= Vhdx.Limit.logBytes else {
            throw BlockError(.limit, "The VHDX log is too long to be replayed (\(header.logBytes) bytes)")
        }
        bytesLeft = Self.readings * header.logBytes + (64 << 20)
        sequence = Self.best(try allEntries(), header.logBytes)
        guard let head = sequence.last?.entry else { return }
        guard head.flushedFileBytes <= UInt64(try file.length()) else {
            throw try file.cutError(
                "What the VHDX log was written for", end: Int(clamping: head.flushedFileBytes), at: 0)
        }
        guard head.neededFileBytes <= UInt64(Vhdx.Limit.fileBytes) else {
            throw BlockError(.corrupt, "The VHDX log states an impossible length of the file")
        }
    }

    /// The length that the file needs after the replay, in bytes.
    var neededFileBytes: Int { Int(clamping: sequence.last?.entry.neededFileBytes ?? 0) }
    /// Whether there is nothing to replay.
    var isEmpty: Bool { sequence.isEmpty }

    // MARK: Finding

    /// All valid entries, in the order of their places. The search continues behind a valid entry, not inside
    /// it.
    private mutating func allEntries() throws(BlockError) -> [Found] {
        var found: [Found] = []
        var offset = 0
        while offset < header.logBytes {
            if let entry = try entry(at: offset) {
                found.append(Found(offset: offset, entry: entry))
                offset += entry.length
            } else {
                offset += Vhdx.pageBytes
            }
        }
        return found
    }

    private mutating func entry(at offset: Int) throws(BlockError) -> VhdxLogEntry? {
        let start = try read(at: offset, count: VhdxLogEntry.headerBytes)
        guard
            let entry = try VhdxLogEntry.parse(
                start.span.bytes, guid: header.logGUID, logBytes: header.logBytes)
        else { return nil }
        return try checksum(of: entry, at: offset) == entry.checksum ? entry : nil
    }

    private mutating func checksum(of entry: VhdxLogEntry, at offset: Int) throws(BlockError) -> UInt32 {
        bytesLeft -= entry.length
        guard bytesLeft >= 0 else {
            throw BlockError(.corrupt, "The VHDX log is damaged", path: file.filename)
        }
        var sum = CRC32C()
        var done = 0
        while done < entry.length {
            let count = min(Self.readBytes, entry.length - done)
            var bytes = try read(at: offset + done, count: count)
            if done == 0 { VhdxLogEntry.checksumField.store(0, in: &bytes) }
            sum.add(bytes.span.bytes)
            done += count
        }
        return sum.value
    }

    /// Reads bytes of the log, which wraps around at its end.
    private func read(at offset: Int, count: Int) throws(BlockError) -> [UInt8] {
        let inside = offset % header.logBytes
        let first = min(count, header.logBytes - inside)
        let bytes = try file.readBytes(at: header.logOffset + inside, count: first)
        if first == count { return bytes }
        return try bytes + file.readBytes(at: header.logOffset, count: count - first)
    }

    /// The sequence whose last entry has the highest number. It begins at that entry's tail.
    private static func best(_ entries: [Found], _ logBytes: Int) -> [Found] {
        var places: [Int: Int] = [:]
        for (index, found) in entries.enumerated() { places[found.offset] = index }
        var steps = 0
        for head in entries.sorted(by: { $0.entry.sequence > $1.entry.sequence }) {
            var result: [Found] = []
            var offset = head.entry.tail
            while let index = places[offset], result.count < entries.count, steps < mostSteps {
                steps += 1
                let next = entries[index]
                if let last = result.last, next.entry.sequence != last.entry.sequence &+ 1 { break }
                result.append(next)
                if next.offset == head.offset { return result }
                offset = (next.offset + next.entry.length) % logBytes
            }
        }
        return []
    }

    // MARK: Going through

    /// Calls `page` or `zero` for every change, in order.
    ///
    /// - Throws: `corrupt` for invalid descriptors; the errors of the calls.
    func eachChange(
        page: (_ bytes: [UInt8], _ offset: Int) throws(BlockError) -> Void,
        zero: (_ range: Range<Int>) throws(BlockError) -> Void
    ) throws(BlockError) {
        for found in sequence {
            var data = found.entry.dataOffset
            for index in 0..<found.entry.descriptorCount {
                let place = VhdxLogEntry.headerBytes + index * VhdxLogEntry.descriptorBytes
                let bytes = try read(at: found.offset + place, count: VhdxLogEntry.descriptorBytes)
                let descriptor = bytes.span.bytes
                guard VhdxLogDescriptor.sequenceField.number(in: descriptor) == found.entry.sequence
                else { throw damaged }
                switch VhdxLogDescriptor.signatureField.number(in: descriptor) {
                case VhdxLogDescriptor.zero:
                    let count = VhdxLogDescriptor.leadingField.number(in: descriptor)
                    try zero(range(descriptor, count: count))
                case VhdxLogDescriptor.data:
                    guard data + Vhdx.pageBytes <= found.entry.length else { throw damaged }
                    let target = try range(descriptor, count: UInt64(Vhdx.pageBytes))
                    try page(try self.page(found, data, descriptor), target.lowerBound)
                    data += Vhdx.pageBytes
                default: throw damaged
                }
            }
        }
    }

    private var damaged: BlockError {
        BlockError(.corrupt, "A descriptor of the VHDX log is damaged", path: file.filename)
    }

    /// The page of a descriptor, assembled from descriptor and data.
    private func page(_ found: Found, _ data: Int, _ descriptor: RawSpan) throws(BlockError) -> [UInt8] {
        let read = try read(at: found.offset + data, count: Vhdx.pageBytes)
        guard VhdxLogData.isPage(read.span.bytes, ofEntry: found.entry.sequence) else { throw damaged }
        return VhdxLogData.page(read, descriptor)
    }

    /// The range that a descriptor changes; never the headers or the log.
    private func range(_ descriptor: RawSpan, count: UInt64) throws(BlockError) -> Range<Int> {
        let offset = VhdxLogDescriptor.offsetField.number(in: descriptor)
        guard offset <= UInt64(Vhdx.Limit.fileBytes), count <= UInt64(Vhdx.Limit.fileBytes),
            offset % UInt64(Vhdx.pageBytes) == 0, count % UInt64(Vhdx.pageBytes) == 0,
            offset >= UInt64(Vhdx.regionTableOffsets[0])
        else { throw damaged }
        let range = Int(offset)..<Int(offset) + Int(count)
        guard range.isEmpty || !range.overlaps(header.logRange) else { throw damaged }
        return range
    }
}
