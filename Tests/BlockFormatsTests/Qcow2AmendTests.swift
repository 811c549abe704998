import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Options of an image that are changed while its disk keeps its bytes.
@Suite struct Qcow2AmendTests {
    /// An image to amend, and how.
    struct Case: Sendable, CustomTestStringConvertible {
        var configuration: FormatConfiguration
        var changes: [(String, String)]

        var testDescription: String {
            "\(configuration) -> \(changes.map { "\($0.0)=\($0.1)" }.joined(separator: ","))"
        }
    }

    private static func of(_ configuration: FormatConfiguration, _ changes: (String, String)...) -> Case {
        Case(configuration: configuration, changes: changes)
    }

    private static func kind(
        _ cluster: Int, _ bits: Int = 16, _ compat: String = "1.1", backing: Bool = false, lazy: Bool = false
    ) -> FormatConfiguration {
        Qcow2ConformanceTests.configuration(
            cluster: cluster, refcountBits: bits, compat: compat, backing: backing,
            more: lazy ? [("lazy_refcounts", "on")] : [])
    }

    static let cases: [Case] = [
        of(kind(4096, 16, "0.10", backing: true), ("compat", "1.1")),
        of(kind(512, 16, "0.10", backing: true), ("compat", "v3")),
        of(kind(4096, backing: true), ("compat", "0.10")),
        of(kind(512, backing: true), ("compat", "v2")),
        of(kind(65536), ("compat", "0.10")),
        of(kind(4096, lazy: true), ("compat", "0.10")),
        of(kind(512), ("refcount_bits", "64")),
        of(kind(512, 64), ("refcount_bits", "2")),
        of(kind(4096, backing: true), ("refcount_bits", "8")),
        of(kind(4096), ("lazy_refcounts", "on")),
        of(kind(4096, lazy: true), ("lazy_refcounts", "off")),
        of(kind(4096, 64, backing: true), ("compat", "0.10"), ("refcount_bits", "16")),
        of(kind(512, 16, "0.10"), ("compat", "1.1"), ("refcount_bits", "32"), ("lazy_refcounts", "on")),
        of(Qcow2EncryptionTests.encrypted(kind(4096, backing: true), "aes"), ("compat", "0.10")),
        of(Qcow2EncryptionTests.encrypted(kind(4096), "aes"), ("refcount_bits", "64")),
    ]

    private let store = TestStore()

    // MARK: Building

    private static func open(
        _ configuration: FormatConfiguration, _ store: TestStore, readOnly: Bool = false,
        forCheck: Bool = false
    ) throws(BlockError) -> BlockNode {
        try configuration.open(
            in: store,
            settings: OpenSettings(readOnly: readOnly, withoutBacking: forCheck, forCheck: forCheck))
    }

    /// Data, zeroes of both kinds, compressed clusters, and a snapshot that shares some and has others.
    private static func fill(_ configuration: FormatConfiguration, _ store: TestStore) throws -> ReferenceDisk
    {
        var model = try configuration.create(in: store)
        let node = try open(configuration, store)
        let unit = try #require(node.format).writeGranularity
        func write(_ index: Int, _ stamp: Int) throws {
            let bytes = Pattern.bytes(stamp: stamp, at: index * unit, count: unit)
            model.write(bytes, at: index * unit)
            try node.write(bytes.span.bytes, at: index * unit)
        }
        func zero(_ index: Int, _ flags: ZeroFlags) throws {
            model.writeZeroes(index * unit..<(index + 1) * unit)
            try node.writeZeroes(at: index * unit, count: unit, flags: flags)
        }
        for index in [0, 1, 2, 4] where (index + 1) * unit <= model.size { try write(index, index) }
        try zero(1, [])
        try zero(3, .mayUnmap)
        try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
        model.createSnapshot("one")
        try write(0, 100)
        try zero(2, [])
        if model.size >= 6 * unit && configuration.compresses {
            let bytes = Pattern.bytes(stamp: 9, at: 5 * unit, count: unit)
            try ImageWriting.writeCompressed(bytes, at: 5 * unit, to: node)
            model.write(bytes, at: 5 * unit)
        }
        try node.close()
        return model
    }

    private static func amend(_ node: BlockNode, _ changes: [(String, String)]) throws {
        var options = CreateOptions(Qcow2Driver.amendOptions)
        for (name, value) in changes { try options.set(name: name, to: value) }
        try node.amend(Amendment(options))
    }

    private static func amend(_ test: Case, _ store: TestStore) throws {
        let node = try open(test.configuration, store)
        defer { try? node.close() }
        try amend(node, test.changes)
        try node.close()
    }

    // MARK: Judging

    private static func check(_ configuration: FormatConfiguration, _ store: TestStore) throws -> CheckResult
    {
        let node = try open(configuration, store, readOnly: true, forCheck: true)
        defer { try? node.close() }
        return try #require(node.format as? any Checkable).check(repair: .none) { _ in }
    }

    /// The disk and the snapshot have the model's bytes, and nothing but leaks is wrong.
    private static func judge(
        _ configuration: FormatConfiguration, _ store: TestStore, _ model: ReferenceDisk, leaks: Bool = true
    ) throws {
        for snapshot in [nil, "one"] {
            let node = try open(configuration, store, readOnly: true)
            defer { try? node.close() }
            if let snapshot {
                try #require(node.format as? any SnapshotCapable).selectSnapshot(id: nil, name: snapshot)
            }
            let wanted = snapshot == nil ? model.read(0..<model.size) : try contents(model, "one")
            guard try node.readBytes(at: 0, count: wanted.count) == wanted else {
                throw Mismatch("\(snapshot ?? "the disk") has other bytes")
            }
        }
        let result = try check(configuration, store)
        guard result.corruptions + result.checkErrors == 0, leaks || result.leaks == 0 else {
            throw Mismatch("\(result)")
        }
    }

    private static func contents(_ model: ReferenceDisk, _ snapshot: String) throws -> [UInt8] {
        let found = try #require(model.snapshots.first { $0.name == snapshot })
        return found.contents.read(at: 0, count: found.contents.count)
    }

    /// What `info` says of an option.
    private static func field(_ key: String, _ node: BlockNode) throws -> InfoValue? {
        try node.format?.describe().specific?.first { $0.key == key }?.value
    }

    private static func wanted(_ change: (String, String)) -> (String, InfoValue) {
        switch change.0 {
        case "compat": ("compat", .text(["v2": "0.10", "v3": "1.1"][change.1] ?? change.1))
        case "refcount_bits": ("refcount-bits", .number(Int(change.1) ?? 0))
        default: ("lazy-refcounts", .flag(change.1 == "on"))
        }
    }

    // MARK: Tests

    /// The open node goes on working with the new options, and so does whoever opens the image next.
    @Test(arguments: cases) func amending(_ test: Case) throws {
        var model = try Self.fill(test.configuration, store)
        let node = try Self.open(test.configuration, store)
        try Self.amend(node, test.changes)
        for change in test.changes {
            let (key, value) = Self.wanted(change)
            #expect(try Self.field(key, node) == value)
        }
        #expect(try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size))
        let bytes = Pattern.bytes(stamp: 200, at: 700, count: model.size - 900)
        try node.write(bytes.span.bytes, at: 700)
        model.write(bytes, at: 700)
        try node.writeZeroes(at: 0, count: model.size / 2)
        model.writeZeroes(0..<model.size / 2)
        try node.close()
        try Self.judge(test.configuration, store, model, leaks: false)
        let again = try Self.open(test.configuration, store)
        try again.applySnapshot("one")
        try again.close()
        model.applySnapshot("one")
        try Self.judge(test.configuration, store, model, leaks: false)
    }

    /// Stopped anywhere, the image opens with the same bytes; leaks at worst. A power failure has many
    /// outcomes around the one write that counts, so several are drawn.
    @Test(.timeLimit(.minutes(5)), arguments: cases, UInt64(0)..<4)
    func interrupted(_ test: Case, _ draw: UInt64) throws {
        let model = try Self.fill(test.configuration, store)
        try checkInterruption(
            of: store.files, seed: TestEffort.seed &+ draw,
            action: { store in try Self.amend(test, store) },
            verify: { store in
                // Who opens an image for writing mends what the dirty bit tells of.
                try Self.open(test.configuration, store).close()
                try Self.judge(test.configuration, store, model)
            })
    }

    /// A size goes with other changes, in either version.
    @Test(arguments: [("compat", "0.10"), ("compat", "1.1"), ("refcount_bits", "32")], [-1024, 0, 70_000])
    func resizing(_ change: (String, String), by bytes: Int) throws {
        let configuration = Self.kind(4096, backing: true)
        var model = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        defer { try? node.close() }
        let data = Pattern.bytes(stamp: 1, at: 0, count: model.size)
        try node.write(data.span.bytes, at: 0)
        model.write(data, at: 0)
        let size = (model.size + bytes) / 512 * 512
        try Self.amend(node, [change, ("size", "\(size)")])
        model.resize(to: size)
        #expect(try node.length() == size)
        #expect(try node.readBytes(at: 0, count: size) == model.read(0..<size))
        try node.close()
        let result = try Self.check(configuration, store)
        #expect(result.corruptions + result.checkErrors + result.leaks == 0, "\(result)")
    }

    /// Scripts say 0 for "as it is".
    @Test func aSizeOfZeroIsNone() throws {
        let configuration = Self.kind(4096, backing: true)
        let model = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        defer { try? node.close() }
        try Self.amend(node, [("size", "0")])
        #expect(try node.length() == model.size)
    }

    // MARK: Data files

    private static func withDataFile(raw: Bool) -> FormatConfiguration {
        var configuration = Qcow2ConformanceTests.configuration(
            cluster: 4096, more: [("data_file", "data"), ("data_file_raw", raw ? "on" : "off")])
        configuration.keepsSnapshots = false
        return configuration
    }

    /// Another name of the data file, shorter or far longer, whenever it is stopped: one of both names is
    /// there, and the same file may stand under both.
    @Test(.timeLimit(.minutes(5)), arguments: ["d", String(repeating: "long", count: 150)], [false, true])
    func dataFileName(_ name: String, raw: Bool) throws {
        let configuration = Self.withDataFile(raw: raw)
        var model = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        let bytes = Pattern.bytes(stamp: 1, at: 0, count: model.size)
        try node.write(bytes.span.bytes, at: 0)
        model.write(bytes, at: 0)
        try node.close()
        store[name] = store["data"]
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try Self.open(configuration, store)
                defer { try? node.close() }
                try Self.amend(node, [("data_file", name)])
                try node.close()
            },
            verify: { store in
                let node = try Self.open(configuration, store, readOnly: true)
                defer { try? node.close() }
                let now = try Self.field("data-file", node)
                guard now == .text("data") || now == .text(name) else { throw Mismatch("\(now as Any)") }
                guard try node.readBytes(at: 0, count: model.size) == bytes else {
                    throw Mismatch("the disk has other bytes")
                }
            })
    }

    /// A data file that need not be raw any longer stays what it is; the way back is closed.
    @Test func dataFileNeedNotBeRaw() throws {
        let configuration = Self.withDataFile(raw: true)
        _ = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        defer { try? node.close() }
        try Self.amend(node, [("data_file_raw", "on")])
        #expect(try Self.field("data-file-raw", node) == .flag(true))
        try Self.amend(node, [("data_file_raw", "off")])
        #expect(try Self.field("data-file-raw", node) == .flag(false))
        #expect(throws: BlockError.self) { try Self.amend(node, [("data_file_raw", "on")]) }
        #expect(throws: BlockError.self) { try Self.amend(node, [("compat", "0.10")]) }
        try node.close()
        let again = try Self.open(configuration, store)
        #expect(try Self.field("data-file-raw", again) == .flag(false))
        try again.close()
    }

    /// A cancelled amendment leaves the image as it was.
    @Test func cancelled() throws {
        let test = Self.cases[2]
        let model = try Self.fill(test.configuration, store)
        let node = try Self.open(test.configuration, store)
        var options = CreateOptions(Qcow2Driver.amendOptions)
        try options.set(name: "compat", to: "0.10")
        let control = JobControl()
        control.cancel()
        #expect(
            blockError { () throws(BlockError) in try node.amend(Amendment(options), control) }?.kind
                == .cancelled)
        #expect(try Self.field("compat", node) == .text("1.1"))
        try node.close()
        try Self.judge(test.configuration, store, model)
    }

    static let refused: [(FormatConfiguration, [(String, String)], String)] = [
        (kind(4096), [("compat", "1.0")], "Unknown compatibility level 1.0"),
        (kind(4096), [("refcount_bits", "3")], "Refcount width must be a power of two"),
        (kind(4096), [("refcount_bits", "1")], "Cannot decrease refcount entry width to 1 bits"),
        (kind(4096), [("refcount_bits", "128")], "Refcount width must be a power of two"),
        (kind(4096), [("compat", "0.10"), ("refcount_bits", "8")], "Refcount widths other than 16 bits"),
        (kind(4096, 32), [("compat", "0.10")], "compat=0.10 requires refcount_bits=16"),
        (kind(4096, 16, "0.10"), [("lazy_refcounts", "on")], "Lazy refcounts only supported"),
        (kind(4096), [("size", "1000")], "The new size must be a multiple of 512"),
        (kind(4096, 16, "0.10"), [("size", "1048576")], "Can't resize a v2 image which has snapshots"),
        (kind(4096), [("compat", "0.10"), ("size", "1048576")], "Internal snapshots prevent downgrade"),
        (kind(4096, backing: true), [("backing_file", "other")], "Cannot amend the backing file"),
        (kind(4096, backing: true), [("backing_fmt", "qcow2")], "Cannot amend the backing file"),
        (kind(4096), [("data_file", "x")], "data-file can only be set"),
        (kind(4096), [("data_file_raw", "on")], "data-file-raw cannot be set"),
        (
            Qcow2ConformanceTests.configuration(cluster: 4096, more: [("compression_type", "zstd")]),
            [("compat", "0.10")],
            "Cannot downgrade an image with zstd compression type and existing compressed clusters"
        ),
    ]

    /// Refusals come before anything is written.
    @Test(arguments: refused.indices) func refusing(_ index: Int) throws {
        let (configuration, changes, message) = Self.refused[index]
        _ = try Self.fill(configuration, store)
        let node = try Self.open(configuration, store)
        defer { try? node.close() }
        store.clearLog()
        var options = CreateOptions(Qcow2Driver.amendOptions)
        for (name, value) in changes { try options.set(name: name, to: value) }
        let failure = blockError { () throws(BlockError) in try node.amend(Amendment(options)) }
        #expect(failure?.message.hasPrefix(message) == true, "\(String(describing: failure))")
        let writes = store.log.filter { if case .flush = $0 { false } else { true } }
        #expect(writes.isEmpty)
    }

    /// What is as it should be is accepted, the backing file too.
    @Test func alreadySo() throws {
        let configuration = Self.kind(4096, backing: true)
        let model = try Self.fill(configuration, store)
        let node = try Self.open(configuration, store)
        try Self.amend(
            node,
            [
                ("compat", "1.1"), ("refcount_bits", "16"), ("lazy_refcounts", "off"),
                ("backing_file", "base"),
                ("backing_fmt", "raw"), ("data_file_raw", "off"), ("size", "\(model.size)"),
            ])
        try node.close()
        try Self.judge(configuration, store, model, leaks: false)
    }
}
