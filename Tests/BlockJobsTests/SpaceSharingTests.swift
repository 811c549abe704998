import BlockCore
import BlockFormats
import BlockJobs
import BlockTestSupport
import Testing

/// Copies whose target shares the space of the source's files.
@Suite struct SpaceSharingTests {
    private static let size = 3 << 20
    private let store = TestStore()
    private let contents: [UInt8]

    init() throws {
        var random = SeededRandom(seed: 11)
        // Data, zeroes among it, a hole, and an end that fills no block.
        contents =
            random.bytes(1 << 20) + [UInt8](repeating: 0, count: 1 << 20) + random.bytes((1 << 20) - 512)
            + [UInt8](repeating: 0, count: 512)
        let node = try make("source", "raw")
        try node.write(contents[0..<1 << 20].span.bytes, at: 0)
        try node.write(Array(contents[2 << 20..<(3 << 20) - 512]).span.bytes, at: 2 << 20)
        try node.close()
        store.sharesSpace = true
    }

    private var opener: ImageOpener {
        ImageOpener(registry: store.registry([Qcow2Driver.self, RawDriver.self]))
    }

    private func make(_ name: String, _ format: String, cluster: Int = 65536) throws -> BlockNode {
        var options = try opener.createOptions(format: format, filename: name)
        try options.set(.size, to: String(Self.size))
        if format == "qcow2" { try options.set(.clusterSize, to: String(cluster)) }
        try opener.create(name, format: format, options: options)
        return try opener.open(name, format: format, settings: OpenSettings(readOnly: false))
    }

    /// Converts, and answers how many bytes were shared.
    private func convert(
        _ source: (name: String, format: String), to target: BlockNode, rate: Int = 0,
        _ change: (inout ConvertJob.Options) -> Void = { _ in }
    ) throws -> Int {
        let before = store.sharedBytes
        let node = try opener.open(source.name, format: source.format)
        var options = ConvertJob.Options()
        options.sharesSpace = true
        options.targetIsZero = true
        options.targetIsNew = true
        change(&options)
        try ConvertJob(sources: [node], target: target, options: options)
            .run(JobControl(bytesPerSecond: rate, clock: ManualClock(movesByItself: true)))
        #expect(try target.readBytes(at: 0, count: Self.size) == contents)
        try node.close()
        try target.close()
        return store.sharedBytes - before
    }

    private func expectSound(_ name: String) throws {
        let node = try opener.open(name, format: "qcow2", settings: OpenSettings(forCheck: true))
        let result = try #require(node.format as? any Checkable).check(repair: .none) { _ in }
        #expect(result.corruptions + result.checkErrors + result.leaks == 0, "\(result)")
        try node.close()
    }

    @Test func rawAndQcow2ShareBothWays() throws {
        #expect(try convert(("source", "raw"), to: make("a", "qcow2")) == 2 << 20)
        try expectSound("a")
        #expect(try convert(("a", "qcow2"), to: make("b", "raw")) == 2 << 20)
        #expect(try convert(("a", "qcow2"), to: make("c", "qcow2", cluster: 4096)) == 2 << 20)
        try expectSound("c")
        #expect(try convert(("c", "qcow2"), to: make("d", "raw")) == 2 << 20)
        #expect(try convert(("b", "raw"), to: make("e", "raw")) == 2 << 20)
    }

    /// A run of data that begins or ends inside a cluster is shared from the next cluster on.
    @Test func dataThatBeginsInsideAClusterIsSharedBehindIt() throws {
        store["source"]?.zero(0..<4096)
        var random = SeededRandom(seed: 5)
        let start = random.bytes(4096)
        store["source"]?.write(start, at: 4096)
        let node = try opener.open("source", format: "raw")
        let target = try make("t", "qcow2")
        var options = ConvertJob.Options()
        options.sharesSpace = true
        options.targetIsNew = true
        try ConvertJob(sources: [node], target: target, options: options).run(JobControl())
        #expect(store.sharedBytes == (2 << 20) - 65536)
        #expect(
            try target.readBytes(at: 0, count: Self.size)
                == [UInt8](repeating: 0, count: 4096) + start + contents[8192...])
    }

    /// Of a disk that ends inside a block the last block is written.
    @Test func theEndThatFillsNoBlockIsWritten() throws {
        store["short"] = store["source"]
        store["short"]?.resize(to: (1 << 20) + 1024)
        var options = try opener.createOptions(format: "raw", filename: "t")
        try options.set(.size, to: String((1 << 20) + 1024))
        store["short"]?.write([7], at: (1 << 20) + 1023)
        try opener.create("t", format: "raw", options: options)
        let target = try opener.open("t", format: "raw", settings: OpenSettings(readOnly: false))
        let node = try opener.open("short", format: "raw")
        var job = ConvertJob.Options()
        job.sharesSpace = true
        try ConvertJob(sources: [node], target: target, options: job).run(JobControl())
        #expect(store.sharedBytes == 1 << 20)
        #expect(
            try target.readBytes(at: 0, count: (1 << 20) + 1024)
                == node.readBytes(at: 0, count: (1 << 20) + 1024))
    }

    /// Where a file system refuses, at once or later, bytes are copied and it is not asked again.
    @Test(arguments: [0, 1]) func refusedSharingIsCopying(_ shares: Int) throws {
        let big = try make("big", "qcow2", cluster: 4096)
        _ = try convert(("source", "raw"), to: big)
        store.sharesLeft = shares
        let shared = try convert(("big", "qcow2"), to: make("b", "raw")) { $0.workers = 1 }
        #expect(shared < 2 << 20)
        #expect(store.sharesLeft == 0)
        #expect(try convert(("source", "raw"), to: make("c", "qcow2")) == 0)
        try expectSound("c")
    }

    /// What was asked for does not go with shared space.
    @Test func whatHasToBeLookedAtIsNotShared() throws {
        #expect(try convert(("source", "raw"), to: make("a", "qcow2")) { $0.sharesSpace = false } == 0)
        #expect(try convert(("source", "raw"), to: make("b", "qcow2")) { $0.sparseBytes = 0 } == 0)
        #expect(try convert(("source", "raw"), to: make("c", "qcow2")) { $0.compress = true } == 0)
        #expect(try convert(("source", "raw"), to: make("d", "qcow2")) { $0.onUnreadable = { _, _ in } } == 0)
        #expect(try convert(("source", "raw"), to: make("e", "qcow2"), rate: 1 << 20) == 0)
    }

    /// Clusters smaller than a block cannot be shared, nor can data that starts inside a block.
    @Test func unalignedSpaceIsNotShared() throws {
        #expect(try convert(("source", "raw"), to: make("a", "qcow2", cluster: 512)) == 0)
        try expectSound("a")
        store["shifted"] = SparseBytes()
        store["shifted"]?.write([UInt8](repeating: 1, count: 512) + contents, at: 0)
        let node = try opener.open(##"json:{"driver":"raw","offset":512,"file.filename":"shifted"}"##)
        let target = try make("b", "raw")
        var options = ConvertJob.Options()
        options.sharesSpace = true
        let before = store.sharedBytes
        try ConvertJob(sources: [node], target: target, options: options).run(JobControl())
        #expect(store.sharedBytes == before)
        #expect(try target.readBytes(at: 0, count: Self.size) == contents)
    }

    @Test func nodesThatLookForZeroesOrWereGuessedTakeBytes() throws {
        let plain = try make("plain", "raw")
        #expect(plain.sharingStorage != nil)
        let settings = OpenSettings(readOnly: false)
        let looking = try OptionTree.parse("detect-zeroes=on")
        let node = try opener.open("source", format: "raw", settings: settings, options: looking)
        #expect(node.sharingStorage == nil)
        #expect(try opener.open("source", settings: settings).sharingStorage == nil)
    }

    /// A snapshot's clusters are not overwritten, and bitmaps learn of what was shared.
    @Test func snapshotsAndBitmapsOfTheTargetKnow() throws {
        let target = try make("t", "qcow2")
        try target.write([UInt8](repeating: 9, count: Self.size).span.bytes, at: 0)
        try target.createSnapshot(SnapshotInfo(id: "", name: "one"))
        try target.changeBitmaps { driver throws(BlockError) in
            try driver.addBitmap("b", granularity: 65536, isEnabled: true)
        }
        let shared = try convert(("source", "raw"), to: target) { options in
            options.targetIsZero = false
            options.targetIsNew = false
        }
        #expect(shared == 2 << 20)
        try expectSound("t")
        let node = try opener.open("t", format: "qcow2", settings: OpenSettings(readOnly: false))
        #expect(try node.bitmapKeeper().bitmap(named: "b").dirtyCount == Self.size >> 16)
        try node.changeBitmaps { driver throws(BlockError) in try driver.removeBitmap("b") }
        try node.applySnapshot("one")
        #expect(try node.readBytes(at: 0, count: Self.size) == [UInt8](repeating: 9, count: Self.size))
    }
}
