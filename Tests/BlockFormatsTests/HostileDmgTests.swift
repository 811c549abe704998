import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Disk images of Apple's form whose numbers are wrong, among them those of CVE-2014-0145: chunks that are
/// longer than any buffer, and tables that lie about their size.
@Suite struct HostileDmgTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var kind: BlockError.Kind
        var change: @Sendable (inout DmgBytes) -> Void

        init(
            _ name: String, _ kind: BlockError.Kind = .corrupt,
            _ change: @escaping @Sendable (inout DmgBytes) -> Void
        ) {
            testDescription = name
            self.kind = kind
            self.change = change
        }
    }

    private static func patch(_ name: String, _ offset: Int, _ value: UInt64, _ bytes: Int) -> Case {
        Case(name) { $0.trailerPatches = [(offset, DmgBytes.bigEndian(value, bytes))] }
    }

    private static func table(
        _ name: String, first: UInt64 = 0, sectors: UInt64 = 8, dataOffset: UInt64 = 0,
        count: UInt64? = nil, _ entries: [DmgBytes.Entry]
    ) -> Case {
        Case(name) { image in
            image.tables = [
                DmgBytes.table(
                    first: first, sectors: sectors, dataOffset: dataOffset, count: count, entries)
            ]
        }
    }

    private static func list(_ name: String, is kind: BlockError.Kind = .corrupt, _ text: String) -> Case {
        Case(name, kind) { $0.directoryBytes = Array(text.utf8) }
    }

    static let zlib: UInt32 = 0x8000_0005

    static let cases: [Case] = [
        patch("data fork beyond the end", 0x18, 1 << 40, 8),
        patch("data fork that overflows", 0x20, .max, 8),
        patch("property list beyond the end", 0xD8, 1 << 62, 8),
        patch("property list that overflows", 0xD8, .max, 8),
        patch("property list of 2^64 bytes", 0xE0, .max, 8),
        patch("resource fork beyond the end", 0x30, 1 << 50, 8),
        Case("disk of 2^63 sectors", .limit) { $0.trailerPatches = [(0x1EC, [0x80])] },
        Case("no directory") { $0.trailerPatches = [(0xE0, [UInt8](repeating: 0, count: 8))] },
        patch("a disk shorter than its chunks", 0x1EC, 7, 8),
        table("more entries than bytes", count: 3, [.init(0, 0, 8)]),
        table("2^32 - 1 entries", count: 0xFFFF_FFFF, [.init(0, 0, 8)]),
        table("a table's first sector", first: .max, [.init(0, 0, 8)]),
        table("a table's last sector", first: 1 << 53, sectors: 1 << 53, [.init(0, 1 << 53, 1 << 53)]),
        table("a chunk's first sector", [.init(0, .max, 8)]),
        table("a chunk's sectors", [.init(0, 0, 1 << 55)]),
        table("a chunk's sectors with a sign", [.init(zlib, 0, 0xFFFF_FFFF_FFFF_FFF8, 0, 8)]),
        table("a table's data offset", dataOffset: .max, [.init(1, 0, 8, 1, 4096)]),
        table("a chunk's offset", [.init(1, 0, 8, .max, 4096)]),
        table("a chunk beyond the file", [.init(1, 0, 8, 1 << 40, 4096)]),
        table("a chunk into the trailer", [.init(zlib, 0, 8, 4000, 10_000)]),
        table("a chunk's length", [.init(zlib, 0, 8, 0, .max)]),
        table("a chunk of 4 GiB", sectors: 1 << 23, [.init(zlib, 0, 1 << 23, 0, 100)]),
        table("a chunk above the limit", sectors: 1 << 20, [.init(zlib, 0, 65537, 0, 100)]),
        table("raw bytes that are too few", [.init(1, 0, 8, 0, 100)]),
        table("chunks that overlap", [.init(0, 0, 5), .init(zlib, 4, 4, 0, 100)]),
        table("chunks out of order", [.init(0, 4, 4), .init(0, 0, 4)]),
        Case("tables that overlap") { $0.tables.append($0.tables[0]) },
        Case("a table that ends early") { $0.tables = [Array($0.tables[0].prefix(100))] },
        list("nothing", ""), list("no XML", "koly"), list("no plist", "<dict></dict>"),
        list("no value", "<plist></plist>"), list("no tables", "<plist><dict></dict></plist>"),
        list("no end", "<plist><dict><key>a</key>"), list("tag without an end", "<plist"),
        list("other ends", "<plist><dict></array></plist>"),
        list("more after the end", "<plist><dict></dict></plist><plist>"),
        list("a dictionary without keys", "<plist><dict><string></string></dict></plist>"),
        list("unknown elements", "<plist><object></object></plist>"),
        list("a section of characters", "<plist><string><![CDATA[a]]></string></plist>"),
        list("entities of its own", "<!DOCTYPE plist [<!ENTITY a \"b\">]><plist><dict></dict></plist>"),
        list("an unknown entity", "<plist><string>&lol;</string></plist>"),
        list("an entity without an end", "<plist><string>&aaaaaaaaaaaaaaaaaaaa;</string></plist>"),
        list("a character that is none", "<plist><string>&#xD800;</string></plist>"),
        list("a comment without an end", "<!-- <plist><dict></dict></plist>"),
        list(
            "nested deeply", is: .limit,
            "<plist>" + String(repeating: "<array>", count: 100_000)),
        list("many values", is: .limit, "<plist><array>" + String(repeating: "<true/>", count: 200_000)),
        Case("a table that is no Base64") { image in
            image.directoryBytes = DmgBytes.propertyList(
                image.tables, items: "<dict><key>Data</key><data>bWl*</data></dict>")
        },
        Case("a table without data") { image in
            image.directoryBytes = DmgBytes.propertyList(image.tables, items: "<dict></dict>")
        },
        Case("no resource fork at all") { image in
            image.directory = .resourceFork
            image.directoryBytes = [1, 2, 3]
        },
        Case("a map of resources beyond the end") { image in
            image.directory = .resourceFork
            var fork = DmgBytes.resourceFork(image.tables)
            fork.replaceSubrange(4..<8, with: [0x7F, 0, 0, 0])
            image.directoryBytes = fork
        },
        Case("resources beyond the end") { image in
            image.directory = .resourceFork
            var fork = DmgBytes.resourceFork(image.tables)
            fork.replaceSubrange(23..<27, with: [0xFF, 0, 0, 0])
            image.directoryBytes = fork
        },
    ]

    static func sound() -> DmgBytes {
        var image = DmgBytes(sectors: 8)
        image.data = DmgTests.stored
        image.tables = [DmgBytes.table(first: 0, sectors: 8, [.init(1, 0, 8, 0, 4096)])]
        return image
    }

    @Test func theSoundImageIsOpened() throws {
        for directory in DmgBytes.Directory.allCases {
            var image = Self.sound()
            image.directory = directory
            #expect(try DmgTests.open(image.file).readBytes(at: 0, count: 4096) == DmgTests.stored)
        }
    }

    @Test(.timeLimit(.minutes(1)), arguments: cases) func isRefused(_ damage: Case) throws {
        var image = Self.sound()
        damage.change(&image)
        let error = blockError { () throws(BlockError) in try DmgTests.open(image.file) }
        #expect(error?.kind == damage.kind, "\(String(describing: error))")
        #expect(error?.path == "disk")
    }

    /// Numbers of sectors that nobody has memory for are no work either.
    @Test func hugeHoles() throws {
        var image = DmgBytes(sectors: 1 << 53)
        image.tables = [DmgBytes.table(first: 0, sectors: 1 << 53, [.init(0, 0, 1 << 53)])]
        let node = try DmgTests.open(image.file)
        #expect(try node.length() == 1 << 62)
        #expect(try node.layerExtent(at: 1 << 61, limit: .max).length == 1 << 61)
        #expect(try DmgTests.check(node).result.corruptions == 0)
    }

    // MARK: Streams

    /// Streams of each kind for a chunk of one sector, and a sound one to show that the others could be read.
    static let streams: [(type: UInt32, isSound: Bool, bytes: [UInt8])] = {
        let sector = Array(DmgTests.stored.prefix(512))
        let raw = Array("bvx-".utf8) + [0, 2, 0, 0]
        let end = Array("bvx$".utf8)
        func lzvn(_ payload: [UInt8], _ size: Int? = nil) -> [UInt8] {
            let count = size ?? payload.count
            return Array("bvxn".utf8) + [0, 2, 0, 0]
                + DmgBytes.bigEndian(UInt64(count), 4).reversed() + payload + end
        }
        let stop: [UInt8] = [6, 0, 0, 0, 0, 0, 0, 0]
        // One literal, and 511 times the same: 15, 271 and 225 bytes.
        let run: [UInt8] = [0xE1, 7, 0x07 | 0x38, 1, 0, 0xF5, 0xF0, 255, 0xF0, 209]
        let adc: [UInt8] = [0x80, 7] + (0..<7).flatMap { _ in [UInt8(0x7F), 0, 0] } + [0x40 | 38, 0, 0]
        return [
            (4, true, adc), (4, false, adc + [0]), (4, false, Array(adc.dropLast())), (4, false, []),
            (4, false, [0x7F, 0, 0]), (4, false, [0x80, 7, 0x7F, 0, 1]), (4, false, [0xFF, 1]),
            (4, false, [0x80, 1, 0x00]),
            (7, true, raw + sector + end), (7, false, raw + sector), (7, false, raw + sector.dropLast(2)),
            (7, false, end), (7, false, []), (7, false, Array("bvx9".utf8) + raw + sector + end),
            (7, false, Array("bvx-".utf8) + [255, 255, 255, 255] + sector),
            (7, false, raw + sector + raw + sector + end),
            (7, true, lzvn(run + stop)), (7, false, lzvn(run)), (7, false, lzvn(run + stop, 1 << 31)),
            (7, false, lzvn(Array(run.dropLast(2)) + stop)), (7, false, lzvn(run + run + stop)),
            (7, false, lzvn([0xF1] + stop)), (7, false, lzvn([0xE1, 7, 0x46] + stop)),
            (7, false, lzvn([0xE1, 7, 0x00, 2] + stop)), (7, false, lzvn([0xE1, 7, 0x07, 0, 0] + stop)),
            (7, false, lzvn([0xE1, 7, 0xA0, 0, 0] + stop)), (7, false, lzvn([0x1E] + stop)),
            (7, false, lzvn([0x70] + stop)), (7, false, lzvn([0xD0] + stop)),
        ]
    }()

    @Test(arguments: streams.indices) func streamsAreReadAsFarAsTheyAreSound(_ index: Int) throws {
        let stream = Self.streams[index]
        var image = DmgBytes(sectors: 1)
        image.data = stream.bytes
        image.tables = [
            DmgBytes.table(
                first: 0, sectors: 1, [.init(0x8000_0000 | stream.type, 0, 1, 0, UInt64(stream.bytes.count))])
        ]
        let node = try DmgTests.open(image.file)
        let error = blockError { () throws(BlockError) in try node.readBytes(at: 0, count: 512) }
        #expect(error?.kind == (stream.isSound ? nil : .corrupt), "\(String(describing: error))")
    }

    /// Headers and payloads of LZFSE with random damage: an error or other bytes, never a trap.
    @Test(.timeLimit(.minutes(2)), arguments: ["lzfse", "lzfse-plain", "lzfse-small"])
    func damagedTables(_ name: String) throws {
        let image = try DmgFixture.image(name)
        var random = SeededRandom(seed: TestEffort.seed)
        for _ in 0..<TestEffort.scaled(150) {
            var damaged = image
            for _ in 0..<1 + random.number(in: 0..<4) {
                let place = random.number(in: 0..<1000)
                damaged.write([UInt8(random.number(in: 0..<256))], at: place)
            }
            let node = try DmgTests.open(damaged)
            _ = try? node.readBytes(at: 0, count: DmgFixture.disk.count)
        }
    }
}
