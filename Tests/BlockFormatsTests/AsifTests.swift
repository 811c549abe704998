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
        var image = ImageBytes(.big, count: 12 * chunk)
        for (value, bytes, offset) in [
            (0x7368_6477, 4, 0), (1, 4, 4), (512, 4, 8), (512, 8, 0x10), (1024, 8, 0x18),
            (UInt64(sectors), 8, 0x30), (UInt64(4 * perTable / 512), 8, 0x38), (UInt64(chunk), 4, 0x40),
            (512, 2, 0x44),
        ] as [(UInt64, Int, Int)] { image.put(value, at: offset, bytes: bytes) }
        // The first directory is old, and names no tables; the other one counts.
        image.put(7, at: 512, bytes: 8)
        image.put(9, at: 1024, bytes: 8)
        image.put(1, at: 1032, bytes: 8)
        image.put(2, at: 1040, bytes: 8)
        let whole: UInt64 = 1 << 62
        let part: UInt64 = 3 << 62
        image.put(whole | 5, at: chunk, bytes: 8)
        image.put(whole | 6, at: chunk + 8, bytes: 8)
        image.put((partly ? part : whole) | 7, at: chunk + 3 * 8, bytes: 8)
        image.put(3, at: chunk + 2048 * 8, bytes: 8)
        image.put(whole | 8, at: 2 * chunk + 2 * 8, bytes: 8)
        image.put(whole | 9, at: 2 * chunk + 5 * 8, bytes: 8)
        image.put(4, at: 2 * chunk + 2048 * 8, bytes: 8)
        // Of chunk 3 the sectors 1, 2, 3 and 63 are there.
        let map = 3 * chunk + 3 * 64 * 2 / 8
        image.put([0b0101_0100], at: map)
        image.put([0b0100_0000], at: map + 15)
        for number in 5..<10 {
            image.put(Pattern.bytes(stamp: number, at: 0, count: chunk), at: number * chunk)
        }
        return image.file
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
    static let hostile = ByteDamage.table(
        ("magic", 0, [[0]]),
        ("version", 4, [[0, 0, 0, 2]]),
        ("offset of the first directory", 0x10, [[0x7F], [0, 0, 0, 0, 0xFF]]),
        ("offset of the second directory", 0x18, [[0xFF], [0, 0, 0, 0, 0, 0, 0, 0]]),
        ("number of sectors", 0x30, [[0x7F], [0, 0, 0, 1]]),
        ("most sectors", 0x38, [[0xFF], [0, 0, 0, 0, 0, 0, 0, 1]]),
        ("chunk size", 0x40, [[0, 0, 0, 0], [0xFF], [0, 0, 0x81], [0, 0, 0x10, 0], [0x10]]),
        ("sector size", 0x44, [[0, 0], [2, 1], [0x80]]))

    @Test(arguments: hostile) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        #expect(throws: BlockError.self) { try Self.open(damage.applied(to: AsifImage.make())) }
    }

    /// Entries: tables, chunks and maps far away; states of chunks and sectors that nobody described.
    ///
    /// The expectation is the place of the disk that cannot be read.
    static let misleading: [ByteDamage<Int>] = [
        .init("table far away", at: directory, [0, 0x7F, 0xFF], 0),
        .init("chunk far away", at: firstTable, [0x40, 0x7F, 0xFF], 0),
        .init(
            "part of a chunk outside", at: firstTable + 3 * 8, [0xC0, 0, 0, 0, 0, 0, 0, 99],
            3 * AsifImage.chunk + 512),
        .init("chunk of state 2", at: firstTable, [0x80], 0),
        .init("chunk of state 0", at: firstTable, [0], 0),
        .init("sector map far away", at: firstMap, [0, 0, 0, 1], 3 * AsifImage.chunk),
        .init("no sector map", at: firstMap + 7, [0], 3 * AsifImage.chunk),
        .init("sector of state 2", at: 3 * AsifImage.chunk + 48, [2], 3 * AsifImage.chunk),
        .init("sector of state 3", at: 3 * AsifImage.chunk + 48, [3], 3 * AsifImage.chunk),
    ]
    /// Entries: of table 0 in the directory that counts; of chunk 0 in table 0; of its group's sector map.
    private static let directory = 1032
    private static let firstTable = AsifImage.chunk
    private static let firstMap = AsifImage.chunk + 2048 * 8

    @Test(arguments: misleading) func misleadingEntriesAreErrors(_ damage: ByteDamage<Int>) throws {
        let node = try Self.open(damage.applied(to: AsifImage.make()))
        let error = blockError { () throws(BlockError) in
            try node.readBytes(at: damage.expectation, count: 512)
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
    static let damages: [ByteDamage<String>] = [
        said("table 0 is in chunk 36027697507336193, outside the file", at: directory, [0, 0x7F, 0xFF]),
        said("table 1 is in chunk 1, which has another use too", at: directory + 15, [1]),
        said("chunk 0 is in chunk 36027697507336197, outside the file", at: firstTable, [0x40, 0x7F, 0xFF]),
        said("chunk 0 is in chunk 0, outside the file", at: firstTable + 7, [0]),
        said("chunk 1 is in chunk 6, which has another use too", at: firstTable + 7, [6]),
        said("chunk 0 is in chunk 1, which has another use too", at: firstTable + 7, [1]),
        said("chunk 0 has the state 2, which is not known", at: firstTable, [0x80]),
        said("chunk 0 has the state 0, which is not known", at: firstTable, [0]),
        said("chunk 3 has no sector map", at: firstMap + 7, [0]),
        said("the sector map of chunk 0 is in chunk 99, outside the file", at: firstMap + 7, [99]),
        said("chunk 3 has sectors whose state is not known", at: 3 * AsifImage.chunk + 63, [3]),
    ]

    private static func said(_ says: String, at offset: Int, _ bytes: [UInt8]) -> ByteDamage<String> {
        ByteDamage(says, at: offset, bytes, "ERROR \(says)")
    }

    @Test(arguments: damages) func damageIsFound(_ damage: ByteDamage<String>) throws {
        let (result, lines) = try Self.check(damage.applied(to: AsifImage.make()))
        #expect(result.corruptions >= 1 && lines.contains(damage.expectation), "\(lines)")
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
