import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Apple's disk images: made by another tool, and laid out here by hand.
@Suite struct DmgTests {
    static func open(_ file: SparseBytes) throws(BlockError) -> BlockNode {
        let store = TestStore(["disk": file])
        return try ImageOpener(registry: store.registry([DmgDriver.self, RawDriver.self])).open("disk")
    }

    static func check(_ node: BlockNode) throws -> (result: CheckResult, text: String) {
        let driver = try #require(node.format as? any Checkable)
        var text = ""
        let result = try driver.check(repair: .none) { text += $0 + "\n" }
        return (result, text)
    }

    @Test(.timeLimit(.minutes(2)), arguments: DmgFixture.names) func reading(_ name: String) throws {
        let image = try DmgFixture.image(name)
        try checkReadOnlyFormat(DmgDriver.self, image: image, expected: DmgFixture.disk)
        let (result, text) = try Self.check(try Self.open(image))
        #expect(result.corruptions == 0 && result.checkErrors == 0, "\(text)")
    }

    // MARK: By hand

    static let stored = Pattern.bytes(stamp: 3, at: 0, count: 8 * 512)

    /// All kinds that need no encoder, in two tables that stand in the wrong order.
    static func image(_ directory: DmgBytes.Directory = .propertyList) -> DmgBytes {
        var image = DmgBytes(sectors: 32)
        func add(_ bytes: [UInt8]) -> (UInt64, UInt64) {
            image.data += bytes
            return (UInt64(image.data.count - bytes.count), UInt64(bytes.count))
        }
        let raw = add(stored)
        let zlib = add(CloopTests.zlib(Array(stored[512..<2048])))
        let adc = add(stored[..<512].chunked(128).flatMap { [0xFF] + $0 })
        let lzfse = add(
            Array("bvx-".utf8) + [0, 4, 0, 0] + stored[1024..<2048] + Array("bvx$".utf8) + [9, 9, 9])
        image.tables = [
            DmgBytes.table(
                first: 20, sectors: 12, dataOffset: zlib.0,
                [
                    .init(0x8000_0005, 0, 3, 0, zlib.1), .init(0x7FFF_FFFE, 0, 9),
                    .init(0x8000_0004, 3, 1, adc.0 - zlib.0, adc.1), .init(0, 4, 6),
                    .init(0x8000_0007, 10, 2, lzfse.0 - zlib.0, lzfse.1), .init(0xFFFF_FFFF, 12, 0),
                ]),
            DmgBytes.table(
                first: 0, sectors: 20,
                [
                    .init(1, 0, 4, raw.0, 2048), .init(1, 4, 4, raw.0 + 2048, 2048), .init(2, 8, 1),
                    .init(0, 9, 11),
                ]),
        ]
        image.directory = directory
        return image
    }

    static let disk =
        stored + [UInt8](repeating: 0, count: 12 * 512) + stored[512..<2048] + stored[..<512]
        + [UInt8](repeating: 0, count: 6 * 512) + stored[1024..<2048]

    @Test(.timeLimit(.minutes(2)), arguments: DmgBytes.Directory.allCases)
    func everyKind(_ directory: DmgBytes.Directory) throws {
        var image = Self.image(directory)
        try checkReadOnlyFormat(DmgDriver.self, image: image.file, expected: Self.disk)
        // Offsets count from the data fork; the trailer is found before what was appended to it.
        image.prefix = [UInt8](repeating: 0x55, count: 700)
        for count in [1, 511, 512] {
            image.suffix = [UInt8](repeating: 0, count: count)
            #expect(try Self.open(image.file).readBytes(at: 0, count: Self.disk.count) == Self.disk)
        }
        // A disk without a stated size ends with its last chunk.
        image.trailerPatches = [(0x1EC, [UInt8](repeating: 0, count: 8))]
        #expect(try Self.open(image.file).length() == Self.disk.count)
    }

    @Test func runsAreLong() throws {
        let node = try Self.open(Self.image().file)
        let data = node.filename == "disk" ? 0 : -1
        #expect(
            try node.layerExtent(at: 512, limit: 1 << 20)
                == Extent(.data(hostOffset: data + 512), length: 7 * 512))
        #expect(
            try node.layerExtent(at: 8 * 512, limit: 1 << 20) == Extent(.zero(hostOffset: nil), length: 6144))
        #expect(
            try node.layerExtent(at: 20 * 512, limit: 1 << 20)
                == Extent(.encoded(compressed: true), length: 2048))
    }

    @Test func encryptedAndSplitImagesAreNamedSo() throws {
        func message(_ bytes: [UInt8]) -> String {
            blockError { () throws(BlockError) in try Self.open(SparseBytes(bytes)) }?.message ?? "opened"
        }
        let plain = Self.image().bytes
        #expect(message(Array("encrcdsa".utf8) + plain).contains("Encrypted"))
        #expect(message(plain + Array("cdsaencr".utf8)).contains("Encrypted"))
        var split = Self.image()
        split.trailerPatches = [(0x38, DmgBytes.bigEndian(2, 4) + DmgBytes.bigEndian(3, 4))]
        #expect(message(split.bytes).contains("segment 2 of a disk image in 3 files"))
    }

    // MARK: The cache

    /// Each chunk is read from the file and decompressed once, whatever the pieces that are read.
    @Test(arguments: [512, 1000, 4096, 10_000]) func chunksAreDecompressedOnce(_ piece: Int) throws {
        let node = try Self.open(DmgFixture.image("zlib"))
        let file = try #require(node.file)
        let before = file.statistics.counts(of: .read).operations
        for start in stride(from: 0, to: DmgFixture.disk.count, by: piece) {
            let count = min(piece, DmgFixture.disk.count - start)
            let bytes = try node.readBytes(at: start, count: count)
            #expect(bytes == Array(DmgFixture.disk[start..<start + count]))
        }
        // Two tables of 71 KiB in chunks of 16 KiB; one of the ten holds zeroes alone.
        #expect(file.statistics.counts(of: .read).operations - before == 9)
    }

    @Test func threadsShareChunks() throws {
        let node = try Self.open(DmgFixture.image("lzma"))
        let file = try #require(node.file)
        let before = file.statistics.counts(of: .read).operations
        try WorkerThreads.run(8) { (thread) throws(BlockError) in
            for start in stride(from: thread * 100, to: 192 * 512, by: 7777) {
                let bytes = try node.readBytes(at: start, count: 64)
                guard bytes == Array(DmgFixture.disk[start..<start + 64]) else {
                    throw BlockError(.corrupt, "other bytes at \(start)")
                }
            }
        }
        #expect(file.statistics.counts(of: .read).operations - before == 1)
    }

    // MARK: Damage

    /// Whatever byte of a chunk is wrong, nothing traps; where the format has a checksum, it is noticed.
    @Test(.timeLimit(.minutes(2)), arguments: DmgFixture.names) func damagedChunks(_ name: String) throws {
        let image = try DmgFixture.image(name)
        var random = SeededRandom(seed: TestEffort.seed)
        for _ in 0..<TestEffort.scaled(60) {
            var damaged = image
            let place = random.number(in: 0..<20_000)
            let byte = image.read(at: place, count: 1)[0] ^ UInt8(1 << random.number(in: 0..<8))
            damaged.write([byte], at: place)
            let node = try Self.open(damaged)
            let bytes = try? node.readBytes(at: 0, count: DmgFixture.disk.count)
            let (result, text) = try Self.check(node)
            #expect(result.corruptions > 0 || bytes == DmgFixture.disk, "byte \(place)")
            #expect(text.contains("ERROR") == (result.corruptions > 0))
        }
    }

    @Test func neighboursOfDamageAreRead() throws {
        var image = Self.image()
        image.data[8 * 512 + 20] ^= 1
        let node = try Self.open(image.file)
        #expect(throws: BlockError.self) { try node.readBytes(at: 21 * 512, count: 10) }
        // And the second time, when it is known to be damaged.
        #expect(throws: BlockError.self) { try node.readBytes(at: 20 * 512, count: 10) }
        #expect(try node.readBytes(at: 23 * 512, count: 512) == Array(Self.stored[..<512]))
        #expect(try Self.check(node).result.corruptions == 1)
    }

    @Test func gapsAndUnknownKindsAreErrors() throws {
        var image = DmgBytes(sectors: 32)
        image.tables = [
            DmgBytes.table(
                first: 0, sectors: 30, [.init(0, 2, 4), .init(0x8000_0009, 8, 2), .init(2, 10, 2)])
        ]
        let node = try Self.open(image.file)
        for (sector, isRead) in [(0, false), (2, true), (7, false), (9, false), (11, true), (12, false)] {
            let bytes = try? node.readBytes(at: sector * 512, count: 512)
            #expect((bytes != nil) == isRead, "sector \(sector)")
        }
        let (result, text) = try Self.check(node)
        #expect(result.corruptions == 4, "\(text)")
        #expect(text.contains("0x80000009") && text.contains("nothing describes 20 sectors from 12 on"))
    }

    /// Bit by bit.
    static func crc32(_ bytes: some Sequence<UInt8>) -> UInt32 {
        ~bytes.reduce(UInt32.max) { crc, byte in
            (0..<8).reduce(crc ^ UInt32(byte)) { crc, _ in crc >> 1 ^ (crc & 1 == 0 ? 0 : 0xEDB8_8320) }
        }
    }

    @Test func checksumsAreCompared() throws {
        var image = DmgBytes(sectors: 3)
        image.data = Self.stored
        let entries: [DmgBytes.Entry] = [.init(1, 0, 1, 0, 512), .init(0, 1, 1), .init(2, 2, 1)]
        // The third sector does not count.
        let right = Self.crc32(Self.stored[..<512] + [UInt8](repeating: 0, count: 512))
        image.tables = [DmgBytes.table(first: 0, sectors: 3, checksum: right, entries)]
        let clean = try Self.check(try Self.open(image.file))
        image.tables = [DmgBytes.table(first: 0, sectors: 3, checksum: right ^ 1, entries)]
        let wrong = try Self.check(try Self.open(image.file))
        #expect(clean.result.corruptions == 0, "\(clean.text)")
        #expect(
            wrong.result.corruptions == 1 && wrong.text.contains(String(right, radix: 16)), "\(wrong.text)")
        for place in [0x50, 0x160] {
            image.trailerPatches = [(place, DmgBytes.checksum(0x1234_5678))]
            #expect(try Self.check(try Self.open(image.file)).result.corruptions == 2)
        }
    }
}

extension Sequence {
    fileprivate func chunked(_ count: Int) -> [[Element]] {
        reduce(into: [[Element]]()) { parts, element in
            if let last = parts.last, last.count < count {
                parts[parts.count - 1].append(element)
            } else {
                parts.append([element])
            }
        }
    }
}
