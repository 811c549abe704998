import BlockCore
import Foundation

/// An Apple disk image laid out by hand, so that any of its numbers can be wrong.
public struct DmgBytes: Sendable {
    /// An entry of a block table; offsets are in bytes from the table's data, the rest in sectors.
    public struct Entry: Sendable {
        public var type: UInt32
        public var sector: UInt64
        public var sectors: UInt64
        public var offset: UInt64
        public var length: UInt64

        public init(
            _ type: UInt32, _ sector: UInt64, _ sectors: UInt64, _ offset: UInt64 = 0, _ length: UInt64 = 0
        ) {
            self.type = type
            self.sector = sector
            self.sectors = sectors
            self.offset = offset
            self.length = length
        }
    }

    /// Where the tables are.
    public enum Directory: Sendable, CaseIterable {
        case propertyList
        case resourceFork
    }

    /// The data fork.
    public var data: [UInt8] = []
    /// What lies before the data fork.
    public var prefix: [UInt8] = []
    /// What is appended after the trailer.
    public var suffix: [UInt8] = []
    public var tables: [[UInt8]] = []
    public var sectors: UInt64
    public var directory = Directory.propertyList
    /// In place of what ``directory`` makes.
    public var directoryBytes: [UInt8]?
    /// Changes of the trailer: offset and bytes.
    public var trailerPatches: [(offset: Int, bytes: [UInt8])] = []

    public init(sectors: UInt64) { self.sectors = sectors }

    /// Numbers, the most significant byte first.
    public static func bigEndian(_ value: UInt64, _ bytes: Int) -> [UInt8] {
        ImageBytes.number(value, bytes: bytes, .big)
    }

    /// A checksum field; CRC-32 where there is a value.
    public static func checksum(_ value: UInt32?) -> [UInt8] {
        let head = value.map { bigEndian(2, 4) + bigEndian(32, 4) + bigEndian(UInt64($0), 4) } ?? []
        return head + [UInt8](repeating: 0, count: 136 - head.count)
    }

    /// A block table.
    public static func table(
        first: UInt64, sectors: UInt64, dataOffset: UInt64 = 0, checksum: UInt32? = nil, count: UInt64? = nil,
        _ entries: [Entry]
    ) -> [UInt8] {
        var bytes = Array("mish".utf8) + bigEndian(1, 4) + bigEndian(first, 8) + bigEndian(sectors, 8)
        bytes += bigEndian(dataOffset, 8) + bigEndian(0, 8) + [UInt8](repeating: 0, count: 24)
        bytes += Self.checksum(checksum) + bigEndian(count ?? UInt64(entries.count), 4)
        for entry in entries {
            bytes += bigEndian(UInt64(entry.type), 4) + bigEndian(0, 4)
            for value in [entry.sector, entry.sectors, entry.offset, entry.length] {
                bytes += bigEndian(value, 8)
            }
        }
        return bytes
    }

    /// The property list of these tables; `items` may follow them.
    public static func propertyList(_ tables: [[UInt8]], items: String = "") -> [UInt8] {
        let all = tables.map { table in
            "<dict><key>Name</key><string>a&#x26;b</string><key>Data</key><data>"
                + Data(table).base64EncodedString(options: .lineLength64Characters) + "</data></dict>\n"
        }.joined()
        return Array(
            """
            <?xml version="1.0" encoding="UTF-8"?>
            <!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"
            "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
            <plist version="1.0"><dict><key>resource-fork</key><dict>
            <key>blkx</key><array>\(all)\(items)</array></dict></dict></plist>
            """.utf8)
    }

    /// The resource fork of these tables, behind another type of resource.
    public static func resourceFork(_ tables: [[UInt8]]) -> [UInt8] {
        var data = bigEndian(3, 4) + [1, 2, 3]
        var references = bigEndian(0, 2) + bigEndian(0xFFFF, 2) + bigEndian(0, 8)
        for (index, table) in tables.enumerated() {
            references += bigEndian(UInt64(index), 2) + bigEndian(0xFFFF, 2)
            references += bigEndian(UInt64(data.count), 4) + bigEndian(0, 4)
            data += bigEndian(UInt64(table.count), 4) + table
        }
        let types = [("plst", 0, 18), ("blkx", tables.count - 1, 18 + 12)]
        var list = bigEndian(1, 2)
        for (name, last, place) in types {
            list += Array(name.utf8) + bigEndian(UInt64(last), 2) + bigEndian(UInt64(place), 2)
        }
        list += references
        let lengths = [16, 16 + data.count, data.count, 28 + list.count]
        let header = lengths.flatMap { bigEndian(UInt64($0), 4) }
        let map = header + bigEndian(0, 8) + bigEndian(28, 2) + bigEndian(UInt64(28 + list.count), 2)
        return header + data + map + list
    }

    private var madeDirectory: [UInt8] {
        directory == .propertyList ? Self.propertyList(tables) : Self.resourceFork(tables)
    }

    /// The file.
    public var bytes: [UInt8] {
        let head = prefix + data
        let list = directoryBytes ?? madeDirectory
        let place = Self.bigEndian(UInt64(head.count), 8) + Self.bigEndian(UInt64(list.count), 8)
        let none = [UInt8](repeating: 0, count: 16)
        var trailer = Array("koly".utf8) + Self.bigEndian(4, 4) + Self.bigEndian(512, 4)
        trailer += Self.bigEndian(1, 4)
        trailer += Self.bigEndian(0, 8) + Self.bigEndian(UInt64(prefix.count), 8)
        trailer += Self.bigEndian(UInt64(data.count), 8)
        trailer += directory == .resourceFork ? place : none
        trailer += Self.bigEndian(1, 4) + Self.bigEndian(1, 4) + none + Self.checksum(nil)
        trailer += directory == .propertyList ? place : none
        trailer += [UInt8](repeating: 0, count: 120) + Self.checksum(nil) + Self.bigEndian(1, 4)
        trailer += Self.bigEndian(sectors, 8) + [UInt8](repeating: 0, count: 12)
        for patch in trailerPatches {
            trailer.replaceSubrange(patch.offset..<patch.offset + patch.bytes.count, with: patch.bytes)
        }
        return head + list + trailer + suffix
    }

    public var file: SparseBytes { SparseBytes(bytes) }
}

/// The disk in the images that Tests/Fixtures/dmg/make.py makes.
public enum DmgFixture {
    private struct Random {
        var state: UInt64
        mutating func next() -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33)
        }
    }

    /// Words of a small language, picked at random.
    static func words(_ count: Int, seed: UInt64) -> [UInt8] {
        var random = Random(state: seed)
        let known = (0..<64).map { _ in
            let length = 3 + random.next() % 8
            return (0..<length).map { _ in UInt8(97 + random.next() % 26) } + [0x20]
        }
        var text: [UInt8] = []
        while text.count < count { text += known[random.next() % 64] }
        return Array(text.prefix(count))
    }

    public static let disk: [UInt8] = {
        var random = Random(state: 5)
        let noise = (0..<16 * 512).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        return words(192 * 512, seed: 1) + [UInt8](repeating: 0, count: 64 * 512)
            + words(7 * 512, seed: 7) + [UInt8](repeating: 0, count: 2 * 512) + noise
            + words(3 * 512, seed: 9)
    }()

    public static let names = [
        "adc", "zlib", "bzip2", "lzma", "lzfse", "lzfse-small", "lzfse-plain", "mixed",
    ]

    static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/dmg")

    public static func path(_ name: String) -> String { folder.appending(path: name + ".dmg").path }

    public static func image(_ name: String) throws -> SparseBytes {
        SparseBytes([UInt8](try Data(contentsOf: folder.appending(path: name + ".dmg"))))
    }
}
