import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// An image laid out by the description of the format: chunks of 32 KiB, sectors of 512 bytes, so that a
/// table has one group of 2048 chunks (64 MiB).
enum AsifImage {
    static let chunk = 32 << 10
    static let perTable = 2048 * chunk
    /// Two tables; the last chunk is not whole.
    static let sectors = (perTable + 5 * chunk) / 512 + 3

    /// The file: chunk 0 header and directories, 1 and 2 tables, 3 and 4 sector maps, then data.
    static func make(partly: Bool = true) -> SparseBytes {
        var file = SparseBytes(count: 12 * chunk)
        func put(_ value: UInt64, _ bytes: Int, at offset: Int) {
            file.write(
                (0..<bytes).map { UInt8(truncatingIfNeeded: value >> (8 * (bytes - 1 - $0))) }, at: offset)
        }
        for (value, bytes, offset) in [
            (0x7368_6477, 4, 0), (1, 4, 4), (512, 4, 8), (512, 8, 0x10), (1024, 8, 0x18),
            (UInt64(sectors), 8, 0x30), (UInt64(4 * perTable / 512), 8, 0x38), (UInt64(chunk), 4, 0x40),
            (512, 2, 0x44),
        ] as [(UInt64, Int, Int)] { put(value, bytes, at: offset) }
        // The first directory is old, and names no tables; the other one counts.
        put(7, 8, at: 512)
        put(9, 8, at: 1024)
        put(1, 8, at: 1032)
        put(2, 8, at: 1040)
        let whole: UInt64 = 1 << 62
        let part: UInt64 = 3 << 62
        put(whole | 5, 8, at: chunk)
        put(whole | 6, 8, at: chunk + 8)
        put((partly ? part : whole) | 7, 8, at: chunk + 3 * 8)
        put(3, 8, at: chunk + 2048 * 8)
        put(whole | 8, 8, at: 2 * chunk + 2 * 8)
        put(whole | 9, 8, at: 2 * chunk + 5 * 8)
        put(4, 8, at: 2 * chunk + 2048 * 8)
        // Of chunk 3 the sectors 1, 2, 3 and 63 are there.
        let map = 3 * chunk + 3 * 64 * 2 / 8
        file.write([0b0101_0100], at: map)
        file.write([0b0100_0000], at: map + 15)
        for number in 5..<10 {
            file.write(Pattern.bytes(stamp: number, at: 0, count: chunk), at: number * chunk)
        }
        return file
    }

    static func expected(partly: Bool = true) -> [UInt8] {
        var disk = [UInt8](repeating: 0, count: sectors * 512)
        func put(_ number: Int, at offset: Int, _ range: Range<Int> = 0..<chunk) {
            let bytes = Pattern.bytes(stamp: number, at: 0, count: chunk)
            for index in range where offset + index < disk.count { disk[offset + index] = bytes[index] }
        }
        put(5, at: 0)
        put(6, at: chunk)
        if partly {
            put(7, at: 3 * chunk, 512..<4 * 512)
            put(7, at: 3 * chunk, 63 * 512..<chunk)
        } else {
            put(7, at: 3 * chunk)
        }
        put(8, at: perTable + 2 * chunk)
        put(9, at: perTable + 5 * chunk)
        return disk
    }
}

/// Apple's sparse images.
@Suite struct AsifTests {
    @Test(.timeLimit(.minutes(3))) func reading() throws {
        try checkReadOnlyFormat(AsifDriver.self, image: AsifImage.make(), expected: AsifImage.expected())
    }

    private static func open(_ file: SparseBytes) throws(BlockError) -> BlockNode {
        let store = TestStore(["disk": file])
        return try ImageOpener(registry: store.registry([AsifDriver.self, RawDriver.self]))
            .open("disk", format: "asif")
    }

    @Test func runsAreLong() throws {
        let node = try Self.open(AsifImage.make())
        let first = try node.layerExtent(at: 100, limit: 1 << 30)
        #expect(first.status == .data(hostOffset: 5 * AsifImage.chunk + 100))
        #expect(first.length == 2 * AsifImage.chunk - 100)
        let hole = try node.layerExtent(at: 4 * AsifImage.chunk, limit: 1 << 30)
        #expect(
            hole.status == .zero(hostOffset: nil) && hole.length == AsifImage.perTable - 4 * AsifImage.chunk)
    }

    /// Numbers in the header that lead nowhere, or to too much.
    static let hostile: [(offset: Int, bytes: [UInt8])] = [
        (0, [0]), (4, [0, 0, 0, 2]), (0x10, [0x7F]), (0x10, [0, 0, 0, 0, 0xFF]), (0x18, [0xFF]),
        (0x18, [0, 0, 0, 0, 0, 0, 0, 0]), (0x30, [0x7F]), (0x30, [0, 0, 0, 1]), (0x38, [0xFF]),
        (0x38, [0, 0, 0, 0, 0, 0, 0, 1]), (0x40, [0, 0, 0, 0]), (0x40, [0xFF]), (0x40, [0, 0, 0x81]),
        (0x40, [0, 0, 0x10, 0]), (0x40, [0x10]), (0x44, [0, 0]), (0x44, [2, 1]), (0x44, [0x80]),
    ]

    @Test(arguments: hostile.indices) func hostileHeadersAreRefused(_ index: Int) throws {
        var file = AsifImage.make()
        file.write(Self.hostile[index].bytes, at: Self.hostile[index].offset)
        #expect(throws: BlockError.self) { try Self.open(file) }
    }

    /// Entries: tables, chunks and maps far away; states of chunks and sectors that nobody described.
    static let misleading: [(offset: Int, bytes: [UInt8], reads: Int)] = [
        (1032, [0, 0x7F, 0xFF], 0), (AsifImage.chunk, [0x40, 0x7F, 0xFF], 0),
        (AsifImage.chunk + 3 * 8, [0xC0, 0, 0, 0, 0, 0, 0, 99], 3 * AsifImage.chunk + 512),
        (AsifImage.chunk, [0x80], 0),
        (AsifImage.chunk, [0], 0), (AsifImage.chunk + 2048 * 8, [0, 0, 0, 1], 3 * AsifImage.chunk),
        (AsifImage.chunk + 2048 * 8 + 7, [0], 3 * AsifImage.chunk),
        (3 * AsifImage.chunk + 48, [2], 3 * AsifImage.chunk),
        (3 * AsifImage.chunk + 48, [3], 3 * AsifImage.chunk),
    ]

    @Test(arguments: misleading.indices) func misleadingEntriesAreErrors(_ index: Int) throws {
        var file = AsifImage.make()
        file.write(Self.misleading[index].bytes, at: Self.misleading[index].offset)
        let node = try Self.open(file)
        let error = blockError { () throws(BlockError) in
            try node.readBytes(at: Self.misleading[index].reads, count: 512)
        }
        #expect(error?.kind == .corrupt || error?.kind == .unsupported, "\(String(describing: error))")
        #expect(
            try node.readBytes(at: AsifImage.perTable + 2 * AsifImage.chunk, count: 1) == [
                AsifImage.expected()[AsifImage.perTable + 2 * AsifImage.chunk]
            ])
    }

    private static func check(_ file: SparseBytes) throws -> (result: CheckResult, lines: [String]) {
        let node = try open(file)
        let driver = try #require(node.format as? any Checkable)
        var lines: [String] = []
        let result = try driver.check(repair: .none) { lines.append($0) }
        return (result, lines)
    }

    @Test func aSoundImageHasNoErrors() throws {
        let (result, lines) = try Self.check(AsifImage.make())
        #expect(result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0, "\(lines)")
        #expect(result.totalClusters == 2054 && result.allocatedClusters == 5)
        #expect(result.imageEndOffset == 10 * AsifImage.chunk)
    }

    /// What reading would stumble over, and chunks with two uses.
    static let damages: [(offset: Int, bytes: [UInt8], says: String)] = [
        (1032, [0, 0x7F, 0xFF], "table 0 is in chunk 36027697507336193, outside the file"),
        (1047, [1], "table 1 is in chunk 1, which has another use too"),
        (AsifImage.chunk, [0x40, 0x7F, 0xFF], "chunk 0 is in chunk 36027697507336197, outside the file"),
        (AsifImage.chunk + 7, [0], "chunk 0 is in chunk 0, outside the file"),
        (AsifImage.chunk + 7, [6], "chunk 1 is in chunk 6, which has another use too"),
        (AsifImage.chunk + 7, [1], "chunk 0 is in chunk 1, which has another use too"),
        (AsifImage.chunk, [0x80], "chunk 0 has the state 2, which is not known"),
        (AsifImage.chunk, [0], "chunk 0 has the state 0, which is not known"),
        (AsifImage.chunk + 2048 * 8 + 7, [0], "chunk 3 has no sector map"),
        (AsifImage.chunk + 2048 * 8 + 7, [99], "the sector map of chunk 0 is in chunk 99, outside the file"),
        (3 * AsifImage.chunk + 63, [3], "chunk 3 has sectors whose state is not known"),
    ]

    @Test(arguments: damages.indices) func damageIsFound(_ index: Int) throws {
        let damage = Self.damages[index]
        var file = AsifImage.make()
        file.write(damage.bytes, at: damage.offset)
        let (result, lines) = try Self.check(file)
        #expect(result.corruptions >= 1 && lines.contains("ERROR \(damage.says)"), "\(lines)")
    }

    @Test func repairIsRefused() throws {
        let node = try Self.open(AsifImage.make())
        let driver = try #require(node.format as? any Checkable)
        let error = blockError { () throws(BlockError) in
            _ = try driver.check(repair: .all) { _ in }
        }
        #expect(error?.kind == .unsupported)
    }
}
