import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// VHDX images whose numbers are wrong on purpose.
@Suite struct HostileVhdxTests {
    private static let unit = VhdxImages.unit

    struct Patch: Sendable, CustomStringConvertible {
        var description: String
        var offset: Int
        var bytes: [UInt8]
        /// The structure whose checksum is made right afterwards.
        var sealed: (offset: Int, count: Int)?
    }

    private static func region(_ description: String, _ offset: Int, _ bytes: [UInt8]) -> [Patch] {
        Vhdx.regionTableOffsets.map {
            Patch(
                description: description, offset: $0 + offset, bytes: bytes,
                sealed: ($0, Vhdx.regionTableBytes))
        }
    }

    private static func header(_ description: String, _ offset: Int, _ bytes: [UInt8]) -> [Patch] {
        Vhdx.headerOffsets.map {
            Patch(
                description: description, offset: $0 + offset, bytes: bytes, sealed: ($0, Vhdx.headerBytes))
        }
    }

    private static func metadata(_ description: String, _ offset: Int, _ bytes: [UInt8]) -> [Patch] {
        [Patch(description: description, offset: 3 * unit + offset, bytes: bytes)]
    }

    private static let items = 64 << 10
    private static let ones = [UInt8](repeating: 0xFF, count: 8)

    static let refused: [[Patch]] = [
        [Patch(description: "signature", offset: 0, bytes: [0])],
        Vhdx.headerOffsets.map { Patch(description: "header checksums", offset: $0 + 80, bytes: [1]) },
        header("version", 0x42, [2, 0]), header("log offset", 0x48, [1]),
        header("log offset beyond", 0x48, [0, 0, 0xF0] + ones.prefix(5)), header("log length", 0x44, [1]),
        header("equal sequence numbers", 8, [1, 0, 0, 0, 0, 0, 0, 0]).enumerated().map { index, patch in
            var patch = patch
            patch.bytes[1] = 0
            if index == 1 { patch.bytes += [5] }
            return patch
        },
        Vhdx.regionTableOffsets.map { Patch(description: "region checksums", offset: $0 + 90, bytes: [1]) },
        region("region count", 8, [0, 8, 0, 0]), region("no regions", 8, [0, 0, 0, 0]),
        region("unaligned region", 0x20, [1]), region("region in the header", 0x20, [0, 0, 0]),
        region("region beyond", 0x20, [0, 0, 0xF0] + ones.prefix(5)),
        region("regions overlap", 0x20, [0, 0, 0x30]), region("region over the log", 0x20, [0, 0, 0x10]),
        region("unknown region", 8, [3, 0, 0, 0]).map { patch in
            var patch = patch
            patch.bytes += [0, 0, 0, 0] + [UInt8](repeating: 0, count: 64)
            patch.bytes +=
                [UInt8](repeating: 7, count: 16) + VhdxImages.bytes(9 << 20)
                + [0, 0, 0x10, 0, 1, 0, 0, 0]
            return patch
        },
        metadata("table signature", 0, [1]), metadata("item count", 10, [0xFF, 0xFF]),
        metadata("no items", 10, [0, 0]), metadata("item offset", 0x30, [0, 0, 0, 0]),
        metadata("item offset beyond", 0x30, [0, 0, 0x10]),
        metadata("item length", 0x34, ones.prefix(4) + []),
        metadata("item twice", 0x40, Vhdx.Item.fileParameters.mixedEndian),
        metadata("unknown item", 0x40, [UInt8](repeating: 7, count: 16)),
        // CVE-2014-0148: divisors of nought.
        metadata("block size 0", items, [0, 0, 0, 0]), metadata("block size", items, [0, 0, 0x18]),
        metadata("block size 512M", items, [0, 0, 0, 0x20]), metadata("sector size 0", items + 0x20, [0, 0]),
        metadata("sector size", items + 0x20, [1, 2]),
        metadata("physical sector size 0", items + 0x24, [0, 0]),
        metadata("size", items + 8, ones), metadata("size beyond 64 TiB", items + 8, [0, 2, 0, 0, 0, 0x40]),
        metadata("half a sector", items + 8, [1]),
        // The number of BAT entries does not fit in the region, nor in 32 bits of bytes.
        metadata("BAT too small", items + 8, [0, 0, 0, 0, 0, 0x40]),
        metadata("BAT count", items + 8, [0, 0, 0, 0, 0x80, 0]),
        metadata("parent without locator", items + 4, [2]),
    ]

    @Test(arguments: refused.indices) func isRefused(_ index: Int) throws {
        var file = try VhdxImages.image(size: 3 * Self.unit, filled: 1)
        for patch in Self.refused[index] {
            file.write(patch.bytes, at: patch.offset)
            if let sealed = patch.sealed {
                VhdxImages.seal(&file, at: sealed.offset, count: sealed.count)
            }
        }
        let store = TestStore(["disk": file])
        let opener = VhdxImages.opener(store)
        #expect(throws: BlockError.self, "\(Self.refused[index][0])") {
            try opener.open("disk", format: "vhdx")
        }
        #expect(throws: BlockError.self, "\(Self.refused[index][0])") {
            try opener.open("disk", format: "vhdx", settings: OpenSettings(readOnly: false))
        }
    }

    // MARK: Logs

    /// Where in an entry, and what; the checksum is made right where `isSealed`.
    static let logs: [(name: String, offset: Int, bytes: [UInt8], isSealed: Bool, opens: Bool)] = [
        ("checksum", 200, [1], false, true), ("length 0", 8, [0, 0, 0, 0], false, true),
        ("length beyond", 8, ones.prefix(4) + [], false, true),
        ("descriptors beyond the entry", 24, ones.prefix(4) + [], true, true),
        ("descriptors that wrap 32 bits", 24, [2, 0, 0, 8], true, true),
        ("more descriptors than data", 24, [2, 0, 0, 0], true, false),
        ("tail", 12, [1], true, true), ("tail beyond", 12, ones.prefix(4) + [], true, true),
        ("tail elsewhere", 12, [0, 0x40, 0, 0], true, true), ("sequence 0", 16, [0], true, true),
        ("descriptor signature", 64, [1], true, false), ("descriptor sequence", 88, [9], true, false),
        ("over the header", 80, [0, 0, 1, 0], true, false), ("over the log", 80, [0, 0, 0x10], true, false),
        ("unaligned", 80, [1], true, false), ("beyond", 80, ones, true, false),
        ("data signature", 4096, [1], true, false), ("data sequence", 8188, [9], true, false),
        ("file was longer", 0x30, [0, 0, 0, 0, 1], true, false),
        ("file becomes too long", 0x38, ones, true, false),
    ]

    @Test(arguments: logs.indices) func logsAreBorne(_ index: Int) throws {
        let log = Self.logs[index]
        var file = try VhdxImages.dirty()
        file.write(log.bytes, at: Self.unit + log.offset)
        if log.isSealed { VhdxImages.seal(&file, at: Self.unit, count: 8192) }
        let store = TestStore(["disk": file])
        if log.opens {
            // What is no entry counts as none.
            #expect(try VhdxImages.firstBytes(VhdxImages.open(store)) == [1, 0, 0])
            try VhdxImages.open(store, readOnly: false).close()
        } else {
            #expect(throws: BlockError.self, "\(log.name)") { try VhdxImages.open(store) }
            #expect(throws: BlockError.self, "\(log.name)") { try VhdxImages.open(store, readOnly: false) }
            #expect(store["disk"]?.read(at: Self.unit, count: 8192) == file.read(at: Self.unit, count: 8192))
        }
    }

    /// Nothing is replayed from it, and nobody says so.
    @Test func aLogWithoutAnEntryIsNotCalledReplayed() throws {
        var file = try VhdxImages.dirty()
        file.write([1], at: Self.unit + 200)
        let store = TestStore(["disk": file])
        let node = try VhdxImages.opener(store).open(
            "disk", settings: OpenSettings(readOnly: true, forCheck: true))
        var told: [String] = []
        _ = try #require(node.format as? any Checkable).check(repair: .none) { told.append($0) }
        #expect(told.contains { $0.contains("no entry that is whole") })
        #expect(!told.contains { $0.contains("replayed") })
    }

    @Test func rangesThatALogZeroesAreJoined() throws {
        var patches = VhdxPatches()
        for page in 0..<3000 { try patches.setZero(page * 4096..<(page + 1) * 4096) }
        #expect(patches.overlap(2999 * 4096..<2999 * 4096 + 1) && !patches.overlap(3000 * 4096..<3001 * 4096))
        #expect(throws: BlockError.self) {
            for page in 0..<3000 { try patches.setZero(page * 8192..<page * 8192 + 4096) }
        }
    }

    /// Each page of the log claims to be an entry of all of it.
    @Test(.timeLimit(.minutes(1))) func aLogOfBeginningsTakesNoTime() throws {
        var file = try VhdxImages.image(size: 3 * Self.unit, [(.logSize, "64M")])
        let guid = ImageUUID(bytes: Array(1...16))
        let page = VhdxLogEntry.make(
            [], sequence: 1, at: 0, guid: guid, flushed: Self.unit, needed: Self.unit)
        var bytes = page.bytes.array
        bytes.replaceSubrange(8..<12, with: VhdxImages.bytes(64 << 20, 4))
        for place in stride(from: Self.unit, to: 65 << 20, by: 4096) { file.write(bytes, at: place) }
        VhdxImages.patchHeaders(&file, guid.mixedEndian, at: 0x30)
        let store = TestStore(["disk": file])
        #expect(throws: BlockError.self) { try VhdxImages.open(store) }
    }
}
