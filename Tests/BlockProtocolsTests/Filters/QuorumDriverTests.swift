import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

/// `quorum`: reads by vote, and the repair of who lost.
@Suite struct QuorumDriverTests {
    private let images = FilterImages()
    private static let size = 16384
    private static let content = Pattern.bytes(stamp: 1, at: 0, count: size)

    init() { for name in ["a", "b", "c"] { images.raw(name, Self.content) } }

    private static func options(_ threshold: Int, _ names: String = "abc", _ more: String = "") -> String {
        names.enumerated().reduce("driver=quorum,vote-threshold=\(threshold)\(more)") { text, file in
            "\(text),children.\(file.offset).driver=raw,children.\(file.offset).file.filename=\(file.element)"
        }
    }

    private func damage(_ name: String, at offset: Int, to byte: UInt8) {
        var bytes = images.bytes(name)
        bytes[offset] = byte
        images.raw(name, bytes)
    }

    /// One wrong byte in one of three: each read gives the right ones, and repairs it where that is wished.
    @Test(arguments: ["a", "b", "c"]) func oneWrongByteLoses(_ name: String) throws {
        var random = SeededRandom(seed: 3)
        for _ in 0..<20 {
            let offset = random.number(in: 0..<Self.size)
            damage(name, at: offset, to: Self.content[offset] ^ 0x10)
            let node = try images.open(Self.options(2))
            #expect(try node.readBytes(at: 0, count: Self.size) == Self.content)
            try node.close()
            #expect(images.bytes(name) != Self.content)
            let mending = try images.open(Self.options(2, "abc", ",rewrite-corrupted=on"))
            // A read that does not touch the byte repairs nothing.
            let before = max(0, min(offset - 1, 100))
            #expect(try mending.readBytes(at: 0, count: before) == Array(Self.content[..<before]))
            #expect(images.bytes(name) != Self.content)
            #expect(try mending.readBytes(at: 0, count: Self.size) == Self.content)
            #expect(images.bytes(name) == Self.content)
            try mending.close()
        }
    }

    @Test func withoutAMajorityTheReadFails() throws {
        damage("a", at: 5000, to: 1)
        damage("b", at: 5000, to: 2)
        for more in ["", ",rewrite-corrupted=on"] {
            let node = try images.open(Self.options(2, "abc", more))
            let error = failure { _ = try node.readBytes(at: 4096, count: 4096) }
            #expect(error?.kind == .io && error?.message == "Input/output error" && error?.errno == 5)
            #expect(try node.readBytes(at: 0, count: 4096) == Array(Self.content[..<4096]))
            try node.close()
        }
        #expect(images.bytes("a")[5000] == 1 && images.bytes("b")[5000] == 2)
        // One voice is enough: of equally many the last.
        let node = try images.open(Self.options(1))
        #expect(try node.readBytes(at: 5000, count: 1) == [Self.content[5000]])
        try node.close()
    }

    @Test func twoOfThreeWriteAndRead() throws {
        let node = try images.open(Self.options(2))
        images.store.faults.arm(1, .ioErrorOnce)
        try node.put([9] * 512, at: 0)
        images.store.faults.disarm()
        #expect(["a", "b", "c"].filter { images.bytes($0)[0] == 9 }.count == 2)
        #expect(try node.readBytes(at: 0, count: 512) == [9] * 512)
        images.store.faults.arm(1, .ioErrorOnce)
        #expect(try node.readBytes(at: 0, count: 512) == [9] * 512)
        images.store.faults.disarm()
        images.store.faults.arm(1, .deadFromThen)
        #expect(failure { try node.put([8], at: 0) }?.kind == .io)
        #expect(failure { _ = try node.readBytes(at: 0, count: 1) }?.kind == .io)
        images.store.faults.disarm()
        try node.close()
    }

    @Test func allMustAgreeWhereAllAreAsked() throws {
        let node = try images.open(Self.options(3))
        images.store.faults.arm(2, .ioErrorOnce)
        #expect(failure { try node.put([9], at: 0) }?.kind == .io)
        images.store.faults.disarm()
        try node.close()
    }

    @Test func fifoReadsTheFirstThatCanBeRead() throws {
        damage("a", at: 0, to: 0xEE)
        let node = try images.open(Self.options(2, "abc", ",read-pattern=fifo,rewrite-corrupted=on"))
        #expect(try node.readBytes(at: 0, count: 1) == [0xEE])
        images.store.faults.arm(1, .ioErrorOnce)
        #expect(try node.readBytes(at: 0, count: 1) == [Self.content[0]])
        images.store.faults.disarm()
        try node.close()
    }

    @Test func twoAreCompared() throws {
        damage("b", at: 700, to: Self.content[700] ^ 1)
        let node = try images.open(Self.options(2, "ab", ",blkverify=on"))
        #expect(
            failure { _ = try node.readBytes(at: 512, count: 1024) }?.message
                == "quorum: offset=512 bytes=1024 contents mismatch at offset 700")
        #expect(try node.readBytes(at: 0, count: 700) == Array(Self.content[..<700]))
        try node.close()
    }

    /// A vote never sees some disks before a write and some behind it.
    @Test func readersSeeWholeWrites() throws {
        let node = try images.open(Self.options(3))
        try WorkerThreads.run(4) { thread throws(BlockError) in
            for step in 0..<60 {
                let byte = UInt8(step + 1)
                if thread < 2 {
                    try node.write([UInt8](repeating: byte, count: 2048).span.bytes, at: thread * 1024)
                } else {
                    _ = try node.readBytes(at: 0, count: 4096)
                }
            }
        }
        try node.close()
        #expect(images.bytes("a") == images.bytes("b") && images.bytes("b") == images.bytes("c"))
    }

    @Test func nothingLooksThroughIt() throws {
        try images.create("q", size: Self.size)
        let node = try images.open(
            "driver=quorum,vote-threshold=1,children.0.file.filename=q,children.1.file.filename=a")
        #expect(node.children.map(\.driverName) == ["qcow2", "raw"] && node.unfiltered === node)
        #expect(failure { try node.createSnapshot(SnapshotInfo(id: "", name: "s")) }?.kind == .unsupported)
        #expect(failure { try node.makeEmpty() }?.kind == .unsupported)
        #expect(failure { try node.resize(to: 1) }?.message == "Image format driver does not support resize")
        #expect(try node.plainPlace(at: 0, limit: 512) == nil && node.sharingStorage == nil)
        try node.close()
    }

    @Test func theMapIsZeroWhereAllAre() throws {
        for name in ["x", "y"] { images.store[name] = SparseBytes(count: Self.size) }
        images.store["y"]?.write([1] * 4096, at: 4096)
        let node = try images.open(Self.options(1, "xy"), readOnly: true)
        let first = try node.status(at: 0, limit: Self.size)
        #expect(first.isZero && first.length == 4096 && first.hostOffset == nil)
        let second = try node.status(at: 4096, limit: Self.size - 4096)
        #expect(second.isData && !second.isZero && second.isPresent && second.hostOffset == nil)
        try node.close()
    }

    private static let refusals: [(String, String)] = [
        ("driver=quorum", "Number of provided children must be 1 or more"),
        ("driver=quorum,vote-threshold=1,children=a", "Number of provided children must be 1 or more"),
        ("driver=quorum,vote-threshold=1,children.a=1", "Option children is not a valid array"),
        (options(1) + ",children.4.file.filename=a", "Option children is not a valid array"),
        (options(0), "Parameter 'vote-threshold' expects a value >= 1"),
        (options(-1), "Parameter 'vote-threshold' expects a value >= 1"),
        (options(4), "threshold may not exceed children count"),
        (options(1).replacing("=1,", with: "=x,"), "Parameter 'vote-threshold' expects a number"),
        (options(1) + ",read-pattern=lifo", "Please set read-pattern as fifo or quorum"),
        (options(1) + ",rewrite-corrupted=1", "Parameter 'rewrite-corrupted' expects 'on' or 'off'"),
        (
            options(2) + ",blkverify=on",
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2"
        ),
        (
            options(2, "ab") + ",blkverify=on,rewrite-corrupted=on",
            "rewrite-corrupted=on cannot be used with blkverify=on"
        ),
        (options(1) + ",no=1", "Block format 'quorum' does not support the option 'no'"),
    ]

    @Test(arguments: refusals) func optionsAreChecked(_ options: String, _ message: String) {
        #expect(images.refusal(options) == message)
        #expect(images.store.openDisks == 0)
    }

    @Test func disksOfOtherSizesAndReadOnlyRewritingAreRefused() throws {
        images.raw("d", [1])
        #expect(
            images.refusal(Self.options(1, "ad"))
                == "Could not refresh total sector count: Input/output error")
        #expect(
            images.refusal(Self.options(1) + ",rewrite-corrupted=on", readOnly: true)
                == "Block node is read-only")
        let many = String(repeating: "a", count: 65)
        #expect(failure { _ = try images.open(Self.options(1, many)) }?.kind == .limit)
        #expect(images.store.openDisks == 0)
    }

    @Test func infoShowsAListOfChildren() throws {
        let node = try images.open(Self.options(2, "ab", ",blkverify=on,read-pattern=quorum"), readOnly: true)
        #expect(node.naming.plain == nil)
        guard case .object(let fields) = node.naming.options else { throw Missing() }
        #expect(fields.map(\.key) == ["read-pattern", "children", "driver", "blkverify", "vote-threshold"])
        guard case .list(let list) = fields[1].value else { throw Missing() }
        #expect(list.count == 2)
        try node.close()
    }

    private struct Missing: Error {}
}
