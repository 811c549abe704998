import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the Parallels driver promises.
@Suite struct ParallelsTests {
    /// Clusters of the usual size, small ones, and some whose size is no power of two.
    static let kinds = [1 << 20, 4096, 63 * 512].map { clusterBytes in
        FormatConfiguration(
            ParallelsDriver.self, options: [(name: "cluster_size", value: "\(clusterBytes)")],
            virtualSize: clusterBytes == 1 << 20 ? (3 << 20) + 512 : 20 * 32256 + 512)
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func conformance(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration])
    }

    /// The older kind, which nobody makes any more: the same operations on a converted header.
    @Test(.timeLimit(.minutes(3)), arguments: [0, 8])
    func randomOperationsOnTheOlderKind(_ dataSector: Int) throws {
        for seed in 0..<UInt64(3) {
            let store = TestStore([
                "disk": ParallelsImage.file(kind: .sectors, dataSector: dataSector, [9, 0, 11, 10])
            ])
            var node = try ParallelsImage.open(store, readOnly: false)
            var model = ReferenceDisk(size: 4 * 4096, backing: nil)
            model.adopt(try node.readBytes(at: 0, count: model.size), at: 0)
            var abilities = DiskAbilities()
            abilities.unit = 4096
            abilities.resizes = true
            var generator = OperationGenerator(seed: seed, size: model.size, abilities: abilities)
            for operation in generator.operations(80) {
                guard let operation = operation.clipped(to: model.size) else { continue }
                if operation == .reopen {
                    try node.close()
                    #expect(try ParallelsImage.check(store).corruptions == 0)
                    node = try ParallelsImage.open(store, readOnly: false)
                } else {
                    try node.perform(operation)
                }
                model.apply(operation)
                // What a discard leaves of parts of clusters is open.
                if case .discard = operation {
                    model.adopt(try node.readBytes(at: 0, count: model.size), at: 0)
                }
                #expect(try node.length() == model.size)
                #expect(
                    try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size), "\(operation)"
                )
            }
            try node.close()
            let result = try ParallelsImage.check(store)
            #expect(result.corruptions == 0 && result.leaks == 0)
        }
    }
}

/// Parallels images as others lay them out, and damaged ones.
enum ParallelsImage {
    enum Kind { case sectors, clusters }

    static let clusterBytes = 4096
    static let inUse = [UInt8]("Ynot".utf8)

    /// The bytes of an image with clusters of 4 KiB, whose entries are given in clusters of the file. Each of
    /// those is filled with its number.
    static func file(
        kind: Kind = .clusters, dataSector: Int = 8, clusters: Int? = nil, size: Int? = nil,
        extensionSector: Int = 0, _ entries: [Int]
    ) -> SparseBytes {
        var image = ImageBytes(.little)
        image.put(kind == .sectors ? "WithoutFreeSpace" : "WithouFreSpacExt", at: 0)
        for (value, offset) in [
            (2, 16), (16, 20), (8, 28), (entries.count, 32), (0x312E_3276, 44), (dataSector, 48),
        ] {
            image.put(value, at: offset)
        }
        image.put((size ?? entries.count * clusterBytes) / 512, at: 36, bytes: 8)
        image.put(extensionSector, at: 56, bytes: 8)
        // Of the older kind without an offset, the data begin with the second sector.
        let shift = kind == .sectors && dataSector == 0 ? 512 - clusterBytes : 0
        for (index, entry) in entries.enumerated() where entry > 0 {
            let offset = entry * clusterBytes + shift
            image.put(kind == .sectors ? offset / 512 : entry, at: 64 + index * 4)
        }
        let end = clusters ?? (entries.filter { $0 < 1000 }.max() ?? 0) + 1
        image.truncate(to: end * clusterBytes + shift)
        for cluster in (63 + entries.count * 4) / clusterBytes + 1..<max(end, 4) where cluster < end {
            image.fill(UInt8(cluster), count: clusterBytes, at: cluster * clusterBytes + shift)
        }
        return image.file
    }

    static func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([ParallelsDriver.self, RawDriver.self]))
    }

    static func open(
        _ store: TestStore, readOnly: Bool = true, forCheck: Bool = false, _ options: [String: String] = [:]
    ) throws(BlockError) -> BlockNode {
        var tree = OptionTree()
        for (key, value) in options { tree[key] = value }
        let settings = OpenSettings(readOnly: readOnly, forCheck: forCheck)
        return try opener(store).open("disk", settings: settings, options: tree)
    }

    /// The first byte of every cluster.
    static func firstBytes(_ node: BlockNode) throws -> [UInt8] {
        try stride(from: 0, to: node.length(), by: clusterBytes).map {
            try node.readBytes(at: $0, count: 1)[0]
        }
    }

    static func firstBytes(_ store: TestStore) throws -> [UInt8] {
        let node = try open(store)
        defer { try? node.close() }
        return try firstBytes(node)
    }

    static func check(
        _ store: TestStore, _ repair: RepairMode = .none, _ report: (String) -> Void = { _ in }
    ) throws -> CheckResult {
        let node = try open(store, readOnly: repair == .none, forCheck: true)
        let result = try #require(node.format as? any Checkable).check(repair: repair, report: report)
        try node.close()
        return result
    }

    /// Whether an image is as good as one that nothing ever happened to.
    static func isSound(_ store: TestStore) throws -> Bool {
        let result = try check(store)
        return result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0
    }
}

/// Images that were not closed or are damaged, and sizes.
@Suite struct ParallelsImageTests {
    @Test func readsBothKinds() throws {
        for (kind, dataSector) in [(ParallelsImage.Kind.sectors, 8), (.sectors, 0), (.clusters, 8)] {
            let store = TestStore([
                "disk": ParallelsImage.file(kind: kind, dataSector: dataSector, [3, 0, 1])
            ])
            #expect(try ParallelsImage.firstBytes(store) == [3, 0, 1])
            #expect(try ParallelsImage.isSound(store))
        }
    }

    @Test func aBackingFileThatIsNamedShowsThrough() throws {
        let store = TestStore(["disk": ParallelsImage.file([0, 1, 0])])
        store["base"] = SparseBytes([UInt8](repeating: 7, count: 3 * 4096))
        let options = ["backing.driver": "raw", "backing.file.filename": "base"]
        let node = try ParallelsImage.open(store, readOnly: false, options)
        #expect(try ParallelsImage.firstBytes(node) == [7, 1, 7])
        try node.write([UInt8(9)].span.bytes, at: 100)
        let around = try node.readBytes(at: 99, count: 3)
        #expect(around == [7, 9, 7])
        try node.writeZeroes(at: 4096, count: 8192)
        #expect(try ParallelsImage.firstBytes(node) == [7, 0, 0])
        try node.discard(at: 0, count: 4096)
        #expect(try ParallelsImage.firstBytes(node) == [7, 0, 0])
        try node.close()
        #expect(try ParallelsImage.isSound(store))
    }

    @Test func theMarkIsSetBeforeTheFirstChangeAndGoesAtTheEnd() throws {
        let store = TestStore(["disk": ParallelsImage.file([1, 0])])
        var mark: [UInt8] { store["disk"]?.read(at: 44, count: 4) ?? [] }
        var node = try ParallelsImage.open(store, readOnly: false)
        try node.flush()
        try node.close()
        #expect(store.log.filter { if case .flush = $0 { false } else { true } }.isEmpty)
        node = try ParallelsImage.open(store, readOnly: false)
        try node.write([UInt8(9)].span.bytes, at: 0)
        #expect(mark == ParallelsImage.inUse)
        try node.reopen(readOnly: true)
        #expect(mark == Array("v2.1".utf8))
        try node.reopen(readOnly: false)
        try node.discard(at: 0, count: 4096)
        #expect(mark == ParallelsImage.inUse)
        try node.close()
        #expect(mark == Array("v2.1".utf8))
    }

    @Test func anImageThatWasNotClosed() throws {
        var file = ParallelsImage.file(clusters: 5, [2, 1, 2])
        file.write(ParallelsImage.inUse, at: 44)
        let store = TestStore(["disk": file])
        let node = try ParallelsImage.open(store)
        #expect(try ParallelsImage.firstBytes(node) == [2, 1, 2])
        #expect(try node.format?.describe().isDirty == true)
        try node.close()
        let found = try ParallelsImage.check(store)
        #expect(found.corruptions == 2 && found.leaks == 2)
        #expect(store["disk"] == file)
        // Leaks alone may be repaired, but the mark stays.
        #expect(try ParallelsImage.check(store, .leaks).corruptions == 2)
        #expect(store["disk"]?.read(at: 44, count: 4) == ParallelsImage.inUse)
        // Opening for writing repairs it first.
        let writer = try ParallelsImage.open(store, readOnly: false)
        try writer.write([UInt8(9)].span.bytes, at: 2 * 4096)
        #expect(try ParallelsImage.firstBytes(writer) == [2, 1, 9])
        try writer.close()
        #expect(try ParallelsImage.isSound(store))
    }

    // MARK: Damage

    struct Damage: Sendable, CustomStringConvertible {
        var name: String
        var description: String { name }
        var entries: [Int]
        var isOld = false
        var dataSector = 8
        var clusters: Int?
        var cut = 0
        var size: Int?
        var corruptions: Int
        var leaks = 0
        /// Whether the file lacks data, which writers do not give up unasked.
        var isLoss = false
        /// The first bytes of the blocks after the repair.
        var repaired: [UInt8]
    }

    static let damages = [
        Damage(name: "shared", entries: [1, 1, 2, 1], corruptions: 2, repaired: [1, 1, 2, 1]),
        Damage(name: "outside", entries: [1, 4000, 2], corruptions: 1, isLoss: true, repaired: [1, 0, 2]),
        Damage(
            name: "far outside", entries: [1, 0xFFFF_FFFF], corruptions: 1, isLoss: true, repaired: [1, 0]),
        Damage(name: "leaks", entries: [1, 0], clusters: 9, corruptions: 0, leaks: 7, repaired: [1, 0]),
        Damage(name: "cut", entries: [1, 2], cut: 1000, corruptions: 1, isLoss: true, repaired: [1, 2]),
        Damage(name: "cut before the data", entries: [0, 0], cut: 3000, corruptions: 1, repaired: [0, 0]),
        Damage(name: "offset of nothing", entries: [1, 2], dataSector: 0, corruptions: 1, repaired: [1, 2]),
        Damage(
            name: "offset in a cluster", entries: [1, 2], dataSector: 9, corruptions: 1, repaired: [1, 2]),
        Damage(
            name: "offset too high", entries: [1, 2], dataSector: 16, corruptions: 1, repaired: [1, 2]),
        Damage(
            name: "offset beyond", entries: [1, 2], dataSector: 800, corruptions: 1, repaired: [1, 2]),
        Damage(
            name: "clusters between clusters", entries: [1, 2], isOld: true, dataSector: 1, corruptions: 2,
            repaired: [1, 2]),
        Damage(
            name: "short table", entries: [1, 2], size: 5000 * 4096, corruptions: 1,
            repaired: [1, 2] + [UInt8](repeating: 0, count: 4998)),
    ]

    static func file(_ damage: Damage) -> SparseBytes {
        var file = ParallelsImage.file(
            kind: damage.isOld ? .sectors : .clusters, dataSector: damage.dataSector,
            clusters: damage.clusters, size: damage.size, damage.entries)
        file.resize(to: file.count - damage.cut)
        return file
    }

    @Test(arguments: damages) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        let store = TestStore(["disk": Self.file(damage)])
        let found = try ParallelsImage.check(store)
        #expect(found.corruptions == damage.corruptions && found.leaks == damage.leaks, "\(damage.name)")
        let repaired = try ParallelsImage.check(store, .all)
        #expect(repaired.corruptions == 0 && repaired.leaks == 0, "\(damage.name): \(repaired)")
        #expect(repaired.corruptionsFixed == damage.corruptions && repaired.leaksFixed == damage.leaks)
        #expect(try ParallelsImage.isSound(store), "\(damage.name)")
        #expect(try ParallelsImage.firstBytes(store) == damage.repaired, "\(damage.name)")
    }

    /// QEMU mends what it must not write to when it opens it for writing.
    @Test(arguments: damages) func damageIsRepairedByWriters(_ damage: Damage) throws {
        let store = TestStore(["disk": Self.file(damage)])
        if damage.isLoss {
            #expect(throws: BlockError.self) { try ParallelsImage.open(store, readOnly: false) }
            return
        }
        let node = try ParallelsImage.open(store, readOnly: false)
        try node.write([UInt8(9)].span.bytes, at: 0)
        #expect(try ParallelsImage.firstBytes(node) == [9] + damage.repaired.dropFirst(), "\(damage.name)")
        try node.close()
        #expect(try ParallelsImage.isSound(store), "\(damage.name)")
    }

    @Test(.timeLimit(.minutes(2)), arguments: damages)
    func aRepairIsStoppedAnywhere(_ damage: Damage) throws {
        try checkInterruption(
            of: ["disk": Self.file(damage)],
            action: { store in _ = try ParallelsImage.check(store, .all) },
            verify: { store in
                let bytes = { try ParallelsImage.firstBytes(store) }
                let before = damage.isLoss ? (try? bytes()) ?? damage.repaired : try bytes()
                guard before == damage.repaired else { throw Mismatch("other bytes") }
                _ = try ParallelsImage.check(store, .all)
                guard try bytes() == damage.repaired else { throw Mismatch("other bytes after the repair") }
                guard try ParallelsImage.isSound(store) else { throw Mismatch("not repaired") }
            })
    }

    /// CVE-2014-0142 (no sectors in a track), 0143 (too many entries), and numbers of the same kind.
    static let hostile = ByteDamage.table(
        ("magic", 0, [[0]]),
        ("version", 16, [[3]]),
        ("sectors of a cluster", 28, [[0], [0xFF, 0xFF, 0xFF, 0xFF], [0, 0, 0x80]]),
        (
            "number of entries", 32,
            [[0xFF, 0xFF, 0xFF, 0xFF], [0, 0, 0, 1], [1, 0, 0, 0x40], [0xFF, 0xFF]]
        ),
        ("disk size", 36, [[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]]),
        ("disk size, high byte", 43, [[0x80]]),
        ("offset of the extension", 56, [[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]]))

    @Test(arguments: hostile) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let store = TestStore(["disk": damage.applied(to: ParallelsImage.file([1, 2]))])
        #expect(throws: BlockError.self) { try Self.openAsParallels(store) }
    }

    @Test func shortFilesAreRefused() throws {
        let whole = ParallelsImage.file([1, 2])
        for length in [0, 1, 16, 20, 63, 64, 71] {
            var file = whole
            file.resize(to: length)
            let store = TestStore(["disk": file])
            #expect(throws: BlockError.self) { try Self.openAsParallels(store) }
        }
    }

    private static func openAsParallels(_ store: TestStore) throws {
        try ParallelsImage.opener(store).open("disk", format: "parallels").close()
    }

    /// A small file may claim that thousands of blocks share a cluster; nobody copies those unasked.
    @Test func manySharedClustersAreNotCopiedUnasked() throws {
        let store = TestStore(["disk": ParallelsImage.file(dataSector: 8, [Int](repeating: 2, count: 900))])
        #expect(throws: BlockError.self) {
            let more = TestStore([
                "disk": ParallelsImage.file(dataSector: 16, [Int](repeating: 3, count: 1700))
            ])
            try ParallelsImage.open(more, readOnly: false).close()
        }
        try ParallelsImage.open(store, readOnly: false).close()
        #expect(try ParallelsImage.isSound(store))
    }

    @Test func theLargestDiskIsMade() throws {
        var options = try ParallelsImage.opener(TestStore()).createOptions(
            format: "parallels", filename: "disk")
        try options.set(.clusterSize, to: "1M")
        let size = try ParallelsDriver.measure(options, virtualSize: 16 << 40, source: nil)
        #expect(size.fullyAllocated > 16 << 40)
        #expect(throws: BlockError.self) {
            try ParallelsDriver.measure(options, virtualSize: (16 << 40) + 512, source: nil)
        }
        #expect(try ParallelsDriver.measure(options, virtualSize: 0, source: nil).required > 0)
    }

    /// Who asks for it gets a limited number of copies at a time.
    @Test(.timeLimit(.minutes(1))) func aClusterOfThousandsOfBlocks() throws {
        let count = 5000
        let file = ParallelsImage.file(dataSector: 40, [Int](repeating: 6, count: count))
        let store = TestStore(["disk": file])
        let first = try ParallelsImage.check(store, .all)
        #expect(first.corruptionsFixed == 4096 && first.corruptions == count - 4097, "\(first)")
        #expect(try ParallelsImage.check(store, .all).corruptions == 0)
        #expect(try ParallelsImage.isSound(store))
        #expect(try ParallelsImage.firstBytes(store) == [UInt8](repeating: 6, count: count))
    }
}
