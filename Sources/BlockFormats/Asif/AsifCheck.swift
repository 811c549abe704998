import BlockCore

/// The survey of an ASIF file: the users of its chunks, and the findings.
private struct AsifSurvey {
    private var used: [UInt64]
    private let chunkCount: Int
    private(set) var last = 0
    var result = CheckResult()

    init(chunkCount: Int) {
        self.chunkCount = chunkCount
        used = [UInt64](repeating: 0, count: chunkCount / 64 + 1)
    }

    /// Notes a user of a chunk. Reports and returns `false` when the chunk is not in the file or used
    /// already.
    mutating func take(_ entry: UInt64, _ user: String, _ report: (String) -> Void) -> Bool {
        let number = Int(entry & Asif.chunkMask)
        guard number > 0, number < chunkCount else {
            corrupt("\(user) is in chunk \(number), outside the file", report)
            return false
        }
        guard used[number / 64] >> UInt64(number % 64) & 1 == 0 else {
            corrupt("\(user) is in chunk \(number), which has another use too", report)
            return false
        }
        used[number / 64] |= 1 << UInt64(number % 64)
        last = max(last, number)
        return true
    }

    /// Marks the chunks of header and directories, which may share one.
    mutating func takeMetadata(_ chunks: ClosedRange<Int>) {
        for number in chunks.clamped(to: 0...chunkCount - 1) {
            used[number / 64] |= 1 << UInt64(number % 64)
            last = max(last, number)
        }
    }

    mutating func corrupt(_ finding: String, _ report: (String) -> Void) {
        result.corruptions += 1
        report("ERROR \(finding)")
    }
}

extension AsifDriver: Checkable {
    /// Checks that tables, sector maps and chunks lie in the file, do not overlap, and have known states.
    ///
    /// Other contents of the file (the metadata chunk, reserved chunks) are undocumented, so nothing counts
    /// as leaked.
    ///
    /// - Throws: `unsupported` for a repair; `limit` for a file with too many chunks; `io`.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try refuseRepair(repair)
        let chunks = fileLength / header.chunkBytes + (fileLength % header.chunkBytes == 0 ? 0 : 1)
        guard chunks <= Asif.Limit.checkedChunks else {
            throw BlockError(.limit, "The file is too large to be checked", path: file.filename)
        }
        var survey = AsifSurvey(chunkCount: chunks)
        survey.takeMetadata(0...0)
        for start in header.directories {
            let end = start + 8 + header.tableCount * 8 - 1
            survey.takeMetadata(start / header.chunkBytes...end / header.chunkBytes)
        }
        for number in 0..<header.tableCount { try check(table: number, &survey, report) }
        survey.result.totalClusters = virtualSize.dividedRoundingUp(by: header.chunkBytes)
        survey.result.imageEndOffset = min((survey.last + 1) * header.chunkBytes, fileLength)
        return survey.result
    }

    private func check(
        table number: Int, _ survey: inout AsifSurvey, _ report: (String) -> Void
    ) throws(BlockError) {
        let entry = try entries(at: directory + 8 + number * 8, count: 1)[0]
        guard entry & Asif.chunkMask != 0, survey.take(entry, "table \(number)", report) else { return }
        let start = Int(entry & Asif.chunkMask) * header.chunkBytes
        let groupBytes = 8 * (header.chunksPerGroup + 1)
        var group = 0
        while group < header.groupsPerTable {
            let place = start + group * groupBytes
            guard place < fileLength else { return }
            // Skips holes of the file.
            let run = try file.status(at: place, limit: (header.groupsPerTable - group) * groupBytes)
            if run.isZero, run.length >= groupBytes {
                group += run.length / groupBytes
                continue
            }
            let first = number * (header.guestBytesPerTable / header.chunkBytes)
            try check(
                group: place, first: first + group * header.chunksPerGroup, &survey, report)
            group += 1
        }
    }

    /// Checks the entries of the group at `place`; the first one is that of the guest's chunk `first`.
    private func check(
        group place: Int, first: Int, _ survey: inout AsifSurvey, _ report: (String) -> Void
    ) throws(BlockError) {
        let entries = try entries(at: place, count: header.chunksPerGroup + 1)
        let mapEntry = entries[header.chunksPerGroup]
        var map: [UInt8]?
        if mapEntry & Asif.chunkMask != 0, survey.take(mapEntry, "the sector map of chunk \(first)", report) {
            let start = Int(mapEntry & Asif.chunkMask) * header.chunkBytes
            map = try file.readBytes(at: start, count: min(header.chunkBytes, fileLength - start))
        }
        for (index, entry) in entries.dropLast().enumerated() where entry != 0 {
            let user = "chunk \(first + index)"
            let state = entry >> 62
            guard state == Asif.State.whole || state == Asif.State.partly else {
                survey.corrupt("\(user) has the state \(state), which is not known", report)
                continue
            }
            survey.result.allocatedClusters += 1
            guard survey.take(entry, user, report), state == Asif.State.partly else { continue }
            guard let map else {
                survey.corrupt("\(user) has no sector map", report)
                continue
            }
            // Two bits per sector; the higher one has no known meaning.
            let bytes = header.chunkBytes / header.sectorBytes / 4
            let part = map.dropFirst(index * bytes).prefix(bytes)
            if part.contains(where: { $0 & 0b1010_1010 != 0 }) {
                survey.corrupt("\(user) has sectors whose state is not known", report)
            }
        }
    }

    /// Reads big-endian entries; those behind the end of the file are 0.
    private func entries(at place: Int, count: Int) throws(BlockError) -> [UInt64] {
        let bytes = try file.readBytes(at: place, count: max(0, min(count * 8, fileLength - place)))
        let span = bytes.span.bytes
        return (0..<count).map { span.bigEndian(at: $0 * 8) ?? 0 }
    }
}
