import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Images as other programs lay them out: parts, sizes, content IDs.
@Suite struct VmdkImageTests {
    /// The first sector behind the metadata of ``VmdkBytes/sparse(sectors:grainSectors:)``.
    static let data = 64
    static let grain = 4096

    static func opener(_ store: TestStore, policy: OpenPolicy = .standard) -> ImageOpener {
        ImageOpener(registry: store.registry([VmdkDriver.self, RawDriver.self]), policy: policy)
    }

    static func open(
        _ store: TestStore, _ name: String = "disk", readOnly: Bool = true, forCheck: Bool = false,
        policy: OpenPolicy = .standard
    ) throws(BlockError) -> BlockNode {
        try opener(store, policy: policy).open(
            name, format: "vmdk", settings: OpenSettings(readOnly: readOnly, forCheck: forCheck))
    }

    /// An image in one file with grains of 4 KiB filled with their number and 1, at these sectors.
    static func single(
        _ grains: [Int: UInt32], sectors: Int = 4096, length: Int? = nil, flags: Int = 3
    ) -> SparseBytes {
        let text = VmdkBytes.text(["RW \(sectors) SPARSE \"disk\""], createType: "monolithicSparse")
        var file = VmdkBytes.sparse(sectors: sectors, descriptor: text, grains: grains, flags: flags)
        for (number, sector) in grains.sorted(by: { $0.key > $1.key }) where sector < 10_000 && sector > 63 {
            file.write(
                [UInt8](repeating: UInt8(truncatingIfNeeded: number + 1), count: grain), at: Int(sector) * 512
            )
        }
        if let length { file.resize(to: length * 512) }
        return file
    }

    static func firstBytes(_ node: BlockNode, _ count: Int) throws -> [UInt8] {
        try (0..<count).map { try node.readBytes(at: $0 * grain, count: 1)[0] }
    }

    static func check(_ store: TestStore, _ repair: RepairMode = .none) throws -> CheckResult {
        let node = try open(store, readOnly: repair == .none, forCheck: true)
        defer { try? node.close() }
        return try #require(node.format as? any Checkable).check(repair: repair) { _ in }
    }

    // MARK: Several files

    static let split = TestStore([
        "disk": VmdkBytes.descriptor(
            ["RW 100 FLAT \"a\" 2", "RW 50 ZERO", "RW 64 SPARSE \"folder/b\""]),
        "a": SparseBytes([UInt8](repeating: 7, count: 102 * 512)),
        "folder/b": VmdkBytes.sparse(sectors: 64),
    ])

    @Test func partsBecomeOneDisk() throws {
        let store = TestStore(Self.split.files)
        let node = try Self.open(store, readOnly: false)
        #expect(try node.length() == 214 * 512)
        try node.write([UInt8(9)].span.bytes, at: 213 * 512)
        #expect(throws: BlockError.self) { try node.write([UInt8(9)].span.bytes, at: 120 * 512) }
        try node.close()
        let again = try Self.open(store)
        let bytes = try again.readBytes(at: 0, count: 214 * 512)
        #expect(bytes[..<51200].allSatisfy { $0 == 7 } && bytes[51200..<213 * 512].allSatisfy { $0 == 0 })
        #expect(bytes[213 * 512] == 9)
    }

    @Test(arguments: ["a", "folder/b"]) func aMissingPartIsNamed(_ name: String) throws {
        let store = TestStore(Self.split.files.filter { $0.key != name })
        let error = #expect(throws: BlockError.self) { try Self.open(store) }
        #expect(error?.kind == .notFound && error?.message.contains("'\(name)'") == true)
    }

    @Test func aPartAloneIsNoDisk() throws {
        for name in ["a", "folder/b"] {
            let error = #expect(throws: BlockError.self) { try Self.open(Self.split, name) }
            #expect(error?.kind == .wrongFormat && error?.message.contains("descriptor") == true)
        }
    }

    /// CVE-2022-47951, and the like: what lies elsewhere is not the image's to name.
    @Test(arguments: ["/secret", "../secret", "x/../../secret", "file:secret", "json:{}", "nbd://host"])
    func extentsElsewhereAreDenied(_ name: String) throws {
        let store = TestStore([
            "disk": VmdkBytes.descriptor(["RW 1 FLAT \"\(name)\" 0"]), name: SparseBytes(count: 512),
        ])
        let error = #expect(throws: BlockError.self) { try Self.open(store) }
        #expect(error?.kind == .denied)
        var settings = OpenSettings()
        settings.metadataOnly = true
        let node = try Self.opener(store).open("disk", format: "vmdk", settings: settings)
        #expect(node.children.count == 1)
    }

    @Test func extentLinesThatMakeNoSenseAreRefused() throws {
        for line in [
            "RW -1 FLAT \"a\" 0", "RW 99999999999999999999 FLAT \"a\" 0", "RW 1 FLAT", "RW 1 FLAT \"\" 0",
            "RW 1 FLAT \"a\" -1", "RW 1 FLAT \"a\" 9223372036854775807", "NOACCESS 1 FLAT \"a\" 0",
            "RW 1 VMFSRDM \"a\"", "RW 1",
            "RW 9007199254740991 FLAT \"a\" 0\nRW 9007199254740991 FLAT \"a\" 0",
            "RW 65 SPARSE \"b\"", "RW 1 SPARSE \"a\"", "RW 1 FLAT \"disk\" 0",
        ] {
            let store = TestStore([
                "disk": VmdkBytes.descriptor([line]), "a": SparseBytes(count: 512),
                "b": VmdkBytes.sparse(sectors: 64),
            ])
            #expect(throws: BlockError.self, "\(line)") { try Self.open(store) }
        }
    }

    @Test func moreExtentsThanFilesMayBeOpenAreRefused() throws {
        let lines = [String](repeating: "RW 1 ZERO", count: 4097)
        let store = TestStore(["disk": VmdkBytes.descriptor(lines)])
        #expect(throws: BlockError.self) { try Self.open(store) }
    }

    // MARK: Sizes

    @Test(.timeLimit(.minutes(2)), arguments: [100, 130, 500]) func splitDisksGainAndLoseFiles(
        _ sectors: Int
    ) throws {
        let files = [
            "disk.vmdk": VmdkBytes.descriptor(
                ["RW 64 SPARSE \"disk-s001.vmdk\"", "RW 24 SPARSE \"disk-s002.vmdk\""],
                createType: "twoGbMaxExtentSparse"),
            "disk-s001.vmdk": VmdkBytes.sparse(sectors: 64),
            "disk-s002.vmdk": VmdkBytes.sparse(sectors: 24),
        ]
        try checkInterruption(
            of: files,
            action: { store in
                let node = try Self.open(store, "disk.vmdk", readOnly: false)
                defer { try? node.close() }
                try node.write([UInt8(3)].span.bytes, at: 87 * 512)
                try node.resize(to: sectors * 512)
                try node.write([UInt8(9)].span.bytes, at: (sectors - 1) * 512)
                let read = try node.readBytes(at: (sectors - 1) * 512, count: 1)
                guard read == [9] else { throw Mismatch("a new part reads \(read)") }
                try node.flush()
            },
            verify: { store in
                let node = try Self.open(store, "disk.vmdk", readOnly: false)
                let size = try node.length() / 512
                guard size == 88 || size == sectors else { throw Mismatch("\(size) sectors") }
                let bytes = try node.readBytes(at: 0, count: size * 512)
                for (index, byte) in bytes.enumerated() where byte != 0 {
                    guard index == 87 * 512 && byte == 3 || index == (sectors - 1) * 512 && byte == 9 else {
                        throw Mismatch("the byte at \(index) is \(byte)")
                    }
                }
                try node.resize(to: 30 * 512)
                try node.close()
                let again = try Self.open(store, "disk.vmdk", readOnly: false)
                guard try again.length() == 30 * 512, again.children.count == 2 else {
                    throw Mismatch("not shrunk")
                }
                try again.resize(to: 100 * 512)
                let grown = try again.readBytes(at: 0, count: 100 * 512)
                guard grown.allSatisfy({ $0 == 0 }) else { throw Mismatch("old bytes came back") }
                try again.close()
            })
    }

    @Test func filesOfOthersAreNotTakenForParts() throws {
        let store = TestStore([
            "disk.vmdk": VmdkBytes.descriptor(
                ["RW 64 SPARSE \"disk-s001.vmdk\"", "RW 64 SPARSE \"b\""],
                createType: "twoGbMaxExtentSparse"),
            "disk-s001.vmdk": VmdkBytes.sparse(sectors: 64), "b": VmdkBytes.sparse(sectors: 64),
            "disk-s003.vmdk": SparseBytes([1, 2, 3]),
        ])
        let node = try Self.open(store, "disk.vmdk", readOnly: false)
        let error = #expect(throws: BlockError.self) { try node.resize(to: 200 * 512) }
        #expect(error?.kind == .exists && store["disk-s003.vmdk"]?.count == 3)
        #expect(try node.length() == 128 * 512)
        try node.close()
    }

    /// The directory has room for 128 tables of 512 KiB.
    @Test(.timeLimit(.minutes(2)), arguments: [4096 + 8, 200_000]) func growingMovesTheDirectory(
        _ sectors: Int
    ) throws {
        try checkInterruption(
            of: ["disk": Self.single([0: 64, 510: 72])],
            action: { store in
                let node = try Self.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: sectors * 512)
                try node.write([UInt8(9)].span.bytes, at: (sectors - 1) * 512)
                try node.flush()
            },
            verify: { store in
                let node = try Self.open(store)
                let size = try node.length() / 512
                guard size == 4096 || size == sectors else { throw Mismatch("\(size) sectors") }
                let ends = try node.readBytes(at: 510 * Self.grain, count: 1)
                guard try Self.firstBytes(node, 2) == [1, 0], ends == [255] else { throw Mismatch("\(ends)") }
                try node.close()
                guard try Self.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    /// The second grain lies where the sum of 32 bits wraps to, not behind the first one.
    @Test func grainsAtTheEndOf32BitsAreNoRun() throws {
        var file = VmdkBytes.sparse(sectors: 256, grainSectors: 128, grains: [0: 0xFFFF_FFFC, 1: 124])
        for (sector, byte) in [(124, 5), (0xFFFF_FFFC, 6), (0xFFFF_FFFC + 128, 7)] as [(Int, UInt8)] {
            file.write([UInt8](repeating: byte, count: 65536), at: sector * 512)
        }
        let store = TestStore(["disk": VmdkBytes.descriptor(["RW 256 SPARSE \"s\""]), "s": file])
        let bytes = try Self.open(store).readBytes(at: 0, count: 2 * 65536)
        #expect(bytes == [UInt8](repeating: 6, count: 65536) + [UInt8](repeating: 5, count: 65536))
    }

    // MARK: Content IDs

    @Test(arguments: ["1234abcd", "678a848", "1", "fffffffe"]) func theFirstWriteChangesTheContentID(
        _ cid: String
    ) throws {
        let store = TestStore([
            "disk": VmdkBytes.descriptor(["RW 64 SPARSE \"a\""], cid: cid),
            "a": VmdkBytes.sparse(sectors: 64),
        ])
        func text() throws -> String {
            let bytes = try #require(store["disk"])
            return String(decoding: bytes.read(at: 0, count: bytes.count), as: UTF8.self)
        }
        let before = try text()
        try Self.open(store, readOnly: false).close()
        #expect(try text() == before)
        for _ in 0..<2 {
            let node = try Self.open(store, readOnly: false)
            try node.write([UInt8(9)].span.bytes, at: 0)
            let changed = try text()
            try node.write([UInt8(9)].span.bytes, at: 1)
            #expect(try text() == changed && changed != before)
            try node.close()
        }
        let lines = try text().split(separator: "\n")
        #expect(lines.count == before.split(separator: "\n").count && lines[2].hasPrefix("CID="))
        #expect(lines[2] != "CID=\(cid)")
    }

    @Test func aChangedParentIsNotTakenForTheOldOne() throws {
        var configuration = VmdkTests.overlays[0]
        configuration.virtualSize = 1 << 20
        let store = TestStore()
        _ = try configuration.create(in: store)
        let opener = ImageOpener(registry: store.registry([VmdkDriver.self, RawDriver.self]))
        try opener.open("disk").close()
        let base = try opener.open("base", settings: OpenSettings(readOnly: false))
        try base.write([UInt8(1)].span.bytes, at: 0)
        try base.close()
        #expect(throws: BlockError.self) { try opener.open("disk") }
        let alone = try opener.open("disk", settings: OpenSettings(readOnly: false, withoutBacking: true))
        let rebasable = try #require(alone.format as? any Rebasable)
        try rebasable.changeBacking(to: BackingReference(filename: "base", format: "vmdk"))
        try alone.close()
        #expect(try opener.open("disk").readBytes(at: 0, count: 1) == [1])
    }

    // MARK: Closing

    /// Two parts; whichever call fails while they are closed, one of them gets what was written to it.
    @Test func everyPartIsWrittenBackWhenOneFails() throws {
        var number = 1
        while true {
            let store = TestStore()
            store["disk-s001"] = VmdkBytes.sparse(sectors: 64)
            store["disk-s002"] = VmdkBytes.sparse(sectors: 64)
            store["disk"] = VmdkBytes.descriptor(
                ["RW 64 SPARSE \"disk-s001\"", "RW 64 SPARSE \"disk-s002\""],
                createType: "twoGbMaxExtentSparse")
            let opener = ImageOpener(registry: store.registry([VmdkDriver.self, RawDriver.self]))
            let node = try opener.open("disk", format: "vmdk", settings: OpenSettings(readOnly: false))
            for offset in [0, 64 * 512] {
                try node.write([UInt8](repeating: 5, count: 4096).span.bytes, at: offset)
            }
            store.faults.arm(number, .ioErrorOnce)
            let outcome = Result { try node.format?.close() }
            let failures = store.faults.failures
            store.faults.disarm()
            let kept = TestStore(store.files)
            let again = try ImageOpener(registry: kept.registry([VmdkDriver.self, RawDriver.self])).open(
                "disk", format: "vmdk")
            let stored = try [0, 64 * 512].filter { try again.readBytes(at: $0, count: 1) == [5] }
            #expect(!stored.isEmpty, "call \(number)")
            guard failures > 0 else {
                try outcome.get()
                #expect(stored.count == 2 && number > 4)
                break
            }
            #expect(throws: BlockError.self) { try outcome.get() }
            number += 1
        }
    }
}
