import BlockCore
import Synchronization

/// A check reads everything: every chunk must decompress, every sector must be described, every checksum must
/// match.
extension DmgDriver: Checkable {
    /// The largest number of findings that are reported one by one; more are only counted.
    private static let maximumReports = 100
    private static let workers = 4
    private static let pieceBytes = Int.mib(1)

    /// - Throws: `unsupported` for a repair; `limit`, `io`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        var findings: [String] = []
        var result = CheckResult()
        func found(_ text: String) {
            result.corruptions += 1
            if findings.count < Self.maximumReports { findings.append(text) }
        }
        checkCoverage(found)
        let survey = try readChunks()
        result.corruptions += survey.damagedCount
        result.checkErrors += survey.unreadableCount
        for failure in survey.failures.sorted(by: { ($0.offset ?? 0) < ($1.offset ?? 0) }) {
            if findings.count < Self.maximumReports { findings.append("ERROR: \(failure.message)") }
        }
        for table in tables.tables { checkTable(table, survey.checksums, found) }
        try checkForks(found)
        for finding in findings { report(finding) }
        let unreported = result.corruptions + result.checkErrors - findings.count
        if unreported > 0 { report("ERROR: \(unreported) further errors") }
        result.imageEndOffset = trailer.offset + Dmg.trailerBytes
        return result
    }

    private func checkCoverage(_ found: (String) -> Void) {
        var end = 0
        for chunk in tables.chunks {
            if chunk.start > end { found(gap(end..<chunk.start)) }
            if chunk.encoding == nil {
                found(
                    "ERROR: the chunk of sector \(chunk.start / Dmg.sectorBytes) is compressed in an unknown "
                        + "way (0x\(String(chunk.type, radix: 16)))")
            }
            end = chunk.end
        }
        if end < virtualSize { found(gap(end..<virtualSize)) }
    }

    private func gap(_ range: Range<Int>) -> String {
        "ERROR: nothing describes \(range.count / Dmg.sectorBytes) sectors from "
            + "\(range.lowerBound / Dmg.sectorBytes) on"
    }

    // MARK: Chunks

    private struct Survey {
        /// The checksum of every chunk; `nil` when it could not be read, or when table checksums leave it
        /// out.
        var checksums: [UInt32?]
        var damagedCount = 0
        var unreadableCount = 0
        /// The first failures.
        var failures: [BlockError] = []

        mutating func add(_ failure: BlockError) {
            if failure.kind == .io { unreadableCount += 1 } else { damagedCount += 1 }
            if failures.count < maximumReports { failures.append(failure) }
        }
    }

    private func readChunks() throws(BlockError) -> Survey {
        let survey = Monitor(Survey(checksums: [UInt32?](repeating: nil, count: tables.chunks.count)))
        let next = Atomic<Int>(0)
        try WorkerThreads.run(Self.workers) { [self] (_) throws(BlockError) in
            while true {
                let number = next.add(1, ordering: .relaxed).oldValue
                guard number < tables.chunks.count else { return }
                do throws(BlockError) {
                    let checksum = try checksum(tables.chunks[number])
                    survey.withLock { $0.checksums[number] = checksum }
                } catch {
                    survey.withLock { $0.add(error) }
                }
            }
        }
        return survey.withLock { $0 }
    }

    /// The checksum of the chunk's decompressed bytes.
    private func checksum(_ chunk: DmgChunk) throws(BlockError) -> UInt32? {
        switch chunk.encoding {
        case nil, .ignored: return nil
        case .zero: return CRC32.ofZeroes(chunk.count)
        case .raw: return try checksum(chunk.offset..<chunk.offset + chunk.length)
        default:
            let buffer = try decoder.decompressed(chunk)
            let result = CRC32.checksum(buffer.bytes)
            // The buffer is freed before its memory counts as available.
            _ = consume buffer
            decoder.cache.giveBack(chunk.count)
            return result
        }
    }

    /// The checksum of bytes of the file.
    private func checksum(_ range: Range<Int>) throws(BlockError) -> UInt32 {
        let buffer = AlignedBuffer(count: min(range.count, Self.pieceBytes))
        var result: UInt32 = 0
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(range.upperBound - offset, buffer.count)
            var part = buffer.mutableBytes(0..<count)
            try file.read(into: &part, at: offset)
            result = CRC32.checksum(buffer.bytes(0..<count), after: result)
            offset += count
        }
        return result
    }

    // MARK: Checksums

    /// Checks a table's checksum, which covers all of its chunks except unused ones.
    private func checkTable(_ table: DmgTable, _ checksums: [UInt32?], _ found: (String) -> Void) {
        guard let expected = table.checksum.expected else { return }
        var result: UInt32 = 0
        for number in table.chunks where tables.chunks[number].encoding != .ignored {
            // With an unreadable chunk there is no checksum to compare.
            guard let checksum = checksums[number] else { return }
            result = CRC32.combined(result, checksum, count: tables.chunks[number].count)
        }
        guard result != expected else { return }
        found(
            "ERROR: the checksum of the sectors from \(table.range.lowerBound / Dmg.sectorBytes) on "
                + "('\(table.name)') is \(hex(result)), not \(hex(expected))")
    }

    private func checkForks(_ found: (String) -> Void) throws(BlockError) {
        if let expected = trailer.dataChecksum.expected {
            let result = try checksum(trailer.dataFork)
            if result != expected {
                found("ERROR: the checksum of the stored data is \(hex(result)), not \(hex(expected))")
            }
        }
        guard let expected = trailer.masterChecksum.expected else { return }
        let result = tables.checksums.reduce(UInt32(0)) { result, checksum in
            CRC32.checksum([checksum.bigEndian].span.bytes, after: result)
        }
        if result != expected {
            found("ERROR: the checksum of the checksums is \(hex(result)), not \(hex(expected))")
        }
    }

    private func hex(_ value: UInt32) -> String { "0x" + String(value, radix: 16) }
}
