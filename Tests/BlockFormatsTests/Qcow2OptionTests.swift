import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Open options, layouts that few ask for, and what emptying an overlay leaves.
@Suite struct Qcow2OptionTests {
    private static func open(
        _ configuration: FormatConfiguration, _ store: TestStore, _ options: [String: String] = [:]
    ) throws(BlockError) -> BlockNode {
        var configuration = configuration
        for (key, value) in options { configuration.openOptions[key] = value }
        return try configuration.open(in: store, settings: OpenSettings(readOnly: false))
    }

    private static func check(_ configuration: FormatConfiguration, _ store: TestStore) throws -> CheckResult
    {
        let node = try configuration.open(
            in: store, settings: OpenSettings(withoutBacking: true, forCheck: true))
        defer { try? node.close() }
        return try #require(node.format as? any Checkable).check(repair: .none) { _ in }
    }

    private static func expectSound(_ configuration: FormatConfiguration, _ store: TestStore) throws {
        let result = try check(configuration, store)
        #expect(result.corruptions + result.checkErrors + result.leaks == 0, "\(result)")
    }

    // MARK: Creating

    @Test("a refcount table of more than one cluster")
    func largeRefcountTable() throws {
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "512"), ("refcount_bits", "64")],
            virtualSize: 8 << 30)
        let store = TestStore()
        try configuration.createImage(in: store)
        #expect(store["disk"]?.big(at: Qcow2Bytes.Field.refcountClusters, bytes: 4) == 2)
        try Self.expectSound(configuration, store)
        let node = try Self.open(configuration, store)
        try node.write([UInt8](repeating: 1, count: 70_000).span.bytes, at: 8 << 30 - 70_000)
        try node.close()
        try Self.expectSound(configuration, store)
    }

    // MARK: Emptying

    private static let overlays: [FormatConfiguration] = [
        Qcow2ConformanceTests.configuration(cluster: 512, refcountBits: 64, backing: true),
        Qcow2ConformanceTests.configuration(cluster: 4096, backing: true),
        Qcow2ConformanceTests.configuration(cluster: 4096, compat: "0.10", backing: true),
        Qcow2SubclusterTests.configuration(cluster: 16384, backing: true),
    ].map { configuration in
        var configuration = configuration
        configuration.virtualSize = 100 * (Int(configuration.options[0].value) ?? 512)
        return configuration
    }

    @Test("an emptied overlay is as short as a new one", .timeLimit(.minutes(2)), arguments: overlays)
    func emptied(_ configuration: FormatConfiguration) throws {
        let store = TestStore()
        let model = try configuration.create(in: store)
        let new = try #require(store["disk"]).count
        let node = try Self.open(configuration, store)
        try node.write([UInt8](repeating: 9, count: model.size).span.bytes, at: 0)
        try node.flush()
        #expect(try #require(store["disk"]).count > new + model.size / 2)
        try node.makeEmpty()
        #expect(try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size))
        try node.close()
        let unit = Int(configuration.options[0].value) ?? 512
        #expect(try #require(store["disk"]).count <= new + 2 * unit)
        try Self.expectSound(configuration, store)
    }

    @Test("emptying that is stopped anywhere", .timeLimit(.minutes(5)), arguments: overlays)
    func emptyingStopped(_ configuration: FormatConfiguration) throws {
        let store = TestStore()
        let model = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        try node.write([UInt8](repeating: 9, count: model.size).span.bytes, at: 0)
        try node.close()
        try checkInterruption(of: store.files) { store in
            let node = try Self.open(configuration, store)
            do {
                try node.makeEmpty()
                try node.close()
            } catch {
                try? node.close()
                throw error
            }
        } verify: { store in
            let result = try Self.check(configuration, store)
            guard result.corruptions == 0, result.checkErrors == 0 else { throw Mismatch("\(result)") }
            let node = try configuration.open(in: store, settings: OpenSettings())
            defer { try? node.close() }
            let seen = try node.readBytes(at: 0, count: model.size)
            guard seen == model.read(0..<model.size) || seen == [UInt8](repeating: 9, count: model.size)
            else {
                throw Mismatch("neither full nor empty")
            }
        }
    }

    /// How many holes emptying punches, and how many blocks the file takes up before and after.
    private func holes(
        _ prepare: (BlockNode) throws -> Void
    ) throws -> (count: Int, before: Int, after: Int) {
        let configuration = Self.overlays[1]
        let store = TestStore()
        let model = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        // Backwards, so that neighbours on the disk are none in the file.
        for offset in stride(from: 0, to: model.size, by: 4096).reversed() {
            try node.write([UInt8](repeating: 9, count: 4096).span.bytes, at: offset)
        }
        try prepare(node)
        try node.close()
        let before = store.usedBlocks
        store.clearLog()
        let again = try Self.open(configuration, store)
        try again.makeEmpty()
        let count = store.log.count { if case .zero = $0 { true } else { false } }
        #expect(try again.readBytes(at: 0, count: model.size) == model.read(0..<model.size))
        try again.close()
        try Self.expectSound(configuration, store)
        return (count, before, store.usedBlocks)
    }

    @Test("an overlay of many clusters is emptied with few holes")
    func emptiedAtOnce() throws {
        let plain = try holes { _ in }
        #expect(plain.count < 10)
        #expect(plain.after < plain.before - 90)
    }

    @Test("what is left over before something that stays becomes holes, in runs")
    func holesBeforeWhatStays() throws {
        let bitmap = try holes { node in
            try node.changeBitmaps { driver throws(BlockError) in
                try driver.addBitmap("b", granularity: 4096, isEnabled: false)
            }
        }
        #expect(bitmap.count < 20)
        #expect(bitmap.after < bitmap.before - 90)
        let snapshot = try holes { node in
            try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
            try node.write([UInt8](repeating: 8, count: 40 * 4096).span.bytes, at: 0)
        }
        #expect(snapshot.count < 20)
        #expect(snapshot.after < snapshot.before - 39)
    }

    // MARK: Open options

    private static let plain = Qcow2ConformanceTests.configuration(cluster: 4096)

    @Test(arguments: [
        ["l2-cache-size": "1M"], ["refcount-cache-size": "64k", "cache-size": "1M"],
        ["cache-size": "0"], ["overlap-check": "constant"], ["overlap-check.template": "cached"],
        ["pass-discard-request": "on", "pass-discard-snapshot": "off", "pass-discard-other": "on"],
        ["overlap-check": "all"], ["overlap-check": "none"], ["l2-cache-entry-size": "512"],
        ["cache-clean-interval": "60"], ["discard-no-unref": "on"],
    ])
    func taken(_ options: [String: String]) throws {
        let store = TestStore()
        let model = try Self.plain.create(in: store)
        let node = try Self.open(Self.plain, store, options)
        let data = Pattern.bytes(stamp: 1, at: 0, count: model.size)
        try node.write(data.span.bytes, at: 0)
        #expect(try node.readBytes(at: 0, count: model.size) == data)
        try node.close()
        try Self.expectSound(Self.plain, store)
    }

    /// What `reopen` sets replaces what it would contradict, and nothing else.
    @Test(arguments: [
        ("cache-size=1M", "l2-cache-size=2M", "l2-cache-size=2M"),
        ("l2-cache-size=2M,refcount-cache-size=1M", "cache-size=1M", "cache-size=1M"),
        ("l2-cache-size=2M", "refcount-cache-size=1M", "refcount-cache-size=1M,l2-cache-size=2M"),
        (
            "overlap-check=cached,lazy-refcounts=on", "overlap-check.template=constant",
            "overlap-check.template=constant,lazy-refcounts=on"
        ),
        (
            "cache-size=1M,l2-cache-size=2M", "lazy-refcounts=on",
            "lazy-refcounts=on,cache-size=1M,l2-cache-size=2M"
        ),
    ])
    func joined(_ old: String, _ new: String, _ expected: String) throws {
        let (old, new) = (try OptionTree.parse(old), try OptionTree.parse(new))
        #expect(Qcow2Driver.joined(new, over: old) == (try OptionTree.parse(expected)))
    }

    @Test(arguments: [
        ["l2-cache-size": "2M", "cache-size": "1M"], ["refcount-cache-size": "2M", "cache-size": "1M"],
        ["l2-cache-size": "1M", "refcount-cache-size": "1M", "cache-size": "2M"], ["l2-cache-size": "x"],
        ["overlap-check": "some"], ["pass-discard-other": "maybe"],
        ["overlap-check": "constant", "overlap-check.template": "cached"],
    ])
    func refused(_ options: [String: String]) throws {
        let store = TestStore()
        _ = try Self.plain.create(in: store)
        #expect(throws: BlockError.self) { _ = try Self.open(Self.plain, store, options) }
    }

    /// What is freed becomes a hole, or keeps its bytes, as the option says.
    @Test(arguments: ["on", "off"])
    func passedDiscards(_ passes: String) throws {
        let store = TestStore()
        _ = try Self.plain.create(in: store)
        let node = try Self.open(Self.plain, store, ["pass-discard-request": passes])
        try node.write([UInt8](repeating: 0x5c, count: 8192).span.bytes, at: 0)
        try node.flush()
        let file = try #require(store["disk"])
        let place = try #require(
            stride(from: 0, to: file.count, by: 4096).first { offset in
                file.read(at: offset, count: 16) == [UInt8](repeating: 0x5c, count: 16)
            })
        try node.discard(at: 0, count: 8192)
        try node.close()
        let left = store["disk"]?.read(at: place, count: 4096)
        #expect(left == [UInt8](repeating: passes == "on" ? 0 : 0x5c, count: 4096))
    }
}
