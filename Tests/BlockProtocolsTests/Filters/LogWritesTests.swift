import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

/// `blklogwrites`: the log has every change, in order, in the format of dm-log-writes.
@Suite struct LogWritesTests {
    private let images = FilterImages()
    private static let size = 64 << 10
    private let options = "driver=blklogwrites,file.driver=raw,file.file.filename=disk,log.filename=log"

    init() {
        images.store["disk"] = SparseBytes(count: Self.size)
        images.store["log"] = SparseBytes()
    }

    /// An entry as the bytes of the log state it.
    private struct Entry: Equatable {
        var sector: Int
        var sectors: Int
        var flags: Int
        var data: [UInt8] = []
    }

    /// Reads a log by the kernel's documentation alone.
    private func entries(_ name: String = "log") throws -> (sectorBytes: Int, entries: [Entry]) {
        let log = images.bytes(name)
        func number(_ offset: Int, _ bytes: Int = 8) -> Int {
            (0..<bytes).reversed().reduce(0) { $0 << 8 | Int(log[offset + $1]) }
        }
        #expect(Array(log[..<8]) == Array("rhswfsj\0".utf8) && number(8) == 1)
        let unit = number(24, 4)
        var entries: [Entry] = []
        var offset = unit
        for _ in 0..<number(16) {
            var entry = Entry(sector: number(offset), sectors: number(offset + 8), flags: number(offset + 16))
            #expect(number(offset + 24) == 0)
            offset += unit
            if entry.flags & 4 == 0 {
                entry.data = Array(log[offset..<offset + entry.sectors * unit])
                offset += entry.data.count
            }
            entries.append(entry)
        }
        return (unit, entries)
    }

    @Test func eachChangeIsAnEntry() throws {
        let node = try images.open(options)
        try node.put([5] * 1024, at: 512)
        try node.put([6] * 100, at: 1500)
        try node.flush()
        try node.writeZeroes(at: 4096, count: 512)
        try node.discard(at: 8000, count: 1000)
        _ = try node.readBytes(at: 0, count: 512)
        try node.close()
        let log = try entries()
        #expect(log.sectorBytes == 512)
        #expect(
            log.entries == [
                Entry(sector: 1, sectors: 2, flags: 0, data: [5] * 1024),
                Entry(sector: 2, sectors: 2, flags: 0, data: [5] * 476 + [6] * 100 + [0] * 448),
                Entry(sector: 0, sectors: 0, flags: 1),
                Entry(sector: 8, sectors: 1, flags: 0, data: [0] * 512),
                Entry(sector: 16, sectors: 1, flags: 4),
                Entry(sector: 0, sectors: 0, flags: 1),
            ])
    }

    /// The log, replayed to each of its entries, gives the disk as it was after each change.
    @Test(arguments: [32, 512, 4096]) func theLogGivesEveryState(_ unit: Int) throws {
        var random = SeededRandom(seed: UInt64(unit))
        let node = try images.open(options + ",log-sector-size=\(unit)")
        var states: [[UInt8]] = []
        for step in 0..<60 {
            let offset = random.number(in: 0..<Self.size - 9000)
            let count = random.number(in: 1..<9000)
            switch random.number(in: 0..<5) {
            case 0: try node.writeZeroes(at: offset, count: count)
            case 1: try node.discard(at: offset, count: count)
            case 2: try node.flush()
            default: try node.put(Pattern.bytes(stamp: step, at: offset, count: count), at: offset)
            }
            states.append(images.bytes("disk"))
        }
        try node.close()
        var disk = SparseBytes(count: Self.size)
        var seen: [[UInt8]] = [disk.read(at: 0, count: Self.size)]
        for entry in try entries().entries {
            if entry.flags & 4 != 0 {
                disk.zero(entry.sector * unit..<(entry.sector + entry.sectors) * unit)
            } else if !entry.data.isEmpty {
                disk.write(entry.data, at: entry.sector * unit)
            }
            seen.append(disk.read(at: 0, count: Self.size))
        }
        // In order: each state is found at or behind the place of the one before.
        var place = 0
        for (step, state) in states.enumerated() {
            let found = seen[place...].firstIndex(of: state)
            #expect(found != nil, "step \(step)")
            place = found ?? place
        }
        #expect(seen.last == images.bytes("disk"))
    }

    @Test func aLogIsAppendedTo() throws {
        for round in 0..<3 {
            let node = try images.open(options + ",log-append=on")
            try node.put([UInt8(round + 1)] * 512, at: round * 512)
            try node.close()
        }
        #expect(try entries().entries.filter { $0.flags == 0 }.map(\.sector) == [0, 1, 2])
        // Another unit is kept.
        let node = try images.open(options + ",log-sector-size=4096")
        try node.put([1] * 4096, at: 4096)
        try node.close()
        let more = try images.open(options + ",log-append=on")
        try more.put([2], at: 0)
        try more.close()
        let log = try entries()
        #expect(log.sectorBytes == 4096)
        #expect(log.entries.filter { $0.flags == 0 }.map(\.sector) == [1, 0])
    }

    /// The number of entries is written with each flush, and else after so many entries.
    @Test func entriesAreCountedAtIntervals() throws {
        let node = try images.open(options + ",log-super-update-interval=3")
        var counts: [Int] = []
        for step in 0..<8 {
            try node.put([1], at: step)
            counts.append(images.store["log"].map { Int($0.read(at: 16, count: 1)[0]) } ?? -1)
        }
        #expect(counts == [0, 2, 2, 2, 5, 5, 5, 8])
        try node.flush()
        let flags = try entries().entries.map(\.flags)
        #expect(flags.count == 9 && flags.last == 1)
        try node.close()
    }

    /// With every write durable, the log says so.
    @Test func writingThroughIsAFlushEach() throws {
        let node = try images.open(options, cache: .writethrough)
        try node.put([1], at: 0)
        try node.put([2], at: 0)
        #expect(try entries().entries.map(\.flags) == [0, 1, 0, 1])
        try node.close()
    }

    /// What could not be logged fails, and so does what follows: the log would have a gap.
    @Test func aFullLogFailsTheWrite() throws {
        let node = try images.open(options)
        try node.put([1] * 4096, at: 0)
        try node.flush()
        images.store.capacity = images.store.usedBlocks
        #expect(failure { try node.put([2] * 4096, at: 0) }?.kind == .noSpace)
        images.store.capacity = nil
        #expect(failure { try node.put([3] * 512, at: 8192) }?.kind == .noSpace)
        #expect(failure { try node.flush() }?.kind == .noSpace)
        #expect(failure { try node.close() }?.kind == .noSpace)
        #expect(try entries().entries.count == 2)
    }

    /// Threads log at the same time; each entry is whole, and the last of each place is what the disk holds.
    @Test func threadsLogWholeEntries() throws {
        let node = try images.open(options)
        try WorkerThreads.run(4) { thread throws(BlockError) in
            for step in 0..<50 {
                let byte = UInt8(thread * 50 + step + 1)
                try node.write([UInt8](repeating: byte, count: 700).span.bytes, at: step % 8 * 600)
                if step % 10 == 0 { try node.flush() }
            }
        }
        try node.close()
        var disk = SparseBytes(count: Self.size)
        for entry in try entries().entries where !entry.data.isEmpty {
            disk.write(entry.data, at: entry.sector * 512)
        }
        #expect(disk.read(at: 0, count: Self.size) == images.bytes("disk"))
    }

    @Test(arguments: [
        (",log-append=on,log-sector-size=512", "log-append and log-sector-size are mutually exclusive"),
        (",log-sector-size=100", "Invalid log sector size 100"),
        (",log-sector-size=16", "Invalid log sector size 16"),
        (",log-sector-size=16M", "Invalid log sector size 16777216"),
        (",log-super-update-interval=0", "Invalid log superblock update interval 0"),
        (",nosuch=1", "Block format 'blklogwrites' does not support the option 'nosuch'"),
    ]) func optionsAreChecked(_ more: String, _ message: String) {
        #expect(images.refusal(options + more) == message)
        #expect(images.store.openDisks == 0)
    }

    private static func numbers(_ values: [UInt64]) -> [UInt8] {
        values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * UInt64($0))) } }
    }

    /// A log with a header of that version, number of entries and unit, and entries of sector, number, flags.
    private static func log(
        _ version: UInt64, _ entries: UInt64, _ unit: UInt64, _ list: [[UInt64]] = [], magic: UInt64 = magic
    ) -> [UInt8] {
        var bytes = numbers([magic, version, entries, unit])
        bytes += [0] * (512 - bytes.count)
        for entry in list { bytes += numbers(entry + [0]) + [0] * 480 }
        return bytes
    }

    private static let magic: UInt64 = 0x6A73_6677_7368_72

    private static let damages: [([UInt8], String)] = [
        (log(1, 0, 512, magic: 1), "Invalid log superblock magic"),
        (log(2, 0, 512), "Unsupported log version 2"),
        (log(1, 0, 100), "Invalid log sector size 100"),
        (log(1, 1, 512, [[0, 0, 0x20]]), "Invalid flags 0x20 in log entry 0"),
        (log(1, 2, 512, [[0, 0, 1]]), "Log entry 1 is behind the end of the log"),
        (log(1, 1, 512, [[0, 1, 0]]), "Log entry 0 is behind the end of the log"),
        (log(1, 1, 512, [[0, .max, 0]]), "Invalid range in log entry 0"),
        (log(1, 1, 512, [[0, UInt64(Int.max), 0]]), "Log entry 0 is behind the end of the log"),
        (log(1, .max, 512), "The log has 18446744073709551615 entries"),
        ([1, 2, 3], "Invalid log superblock magic"),
    ]

    @Test(arguments: damages) func aDamagedLogIsNotAppendedTo(_ bytes: [UInt8], _ message: String) {
        images.raw("log", bytes)
        #expect(images.refusal(options + ",log-append=on") == message)
        #expect(images.bytes("log") == bytes)
        #expect(images.store.openDisks == 0)
    }

    @Test func readingNeedsNoLogEntry() throws {
        let node = try images.open(options, readOnly: true)
        _ = try node.readBytes(at: 0, count: 512)
        try node.close()
        #expect(images.bytes("log").isEmpty)
    }
}
