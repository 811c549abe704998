import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the driver of qcow version 1 promises.
@Suite struct QcowTests {
    /// The format has no counts of who uses a cluster: compressed clusters that are written over leave space
    /// that nothing refers to. A check after that may find it, and a repair gives back what it can; without
    /// compression nothing is left.
    static let kinds: [FormatConfiguration] = [
        kind(), kind(compresses: true), kind(backing: true), kind(backing: true, compresses: true),
        encrypted(kind()), encrypted(kind(backing: true)),
    ]

    static func kind(backing: Bool = false, compresses: Bool = false) -> FormatConfiguration {
        let size = backing ? 512 * 83 + 512 : 4096 * 21 + 1536
        var result = FormatConfiguration(
            QcowDriver.self, virtualSize: size, backingSize: backing ? size * 2 / 3 / 512 * 512 + 256 : nil)
        result.compresses = compresses
        result.leavesLeaks = compresses
        return result
    }

    static func encrypted(_ plain: FormatConfiguration) -> FormatConfiguration {
        var result = plain
        result.options += [
            (name: "encrypt.format", value: "aes"), (name: "encrypt.key-secret", value: "s0"),
        ]
        result.openOptions["encrypt.key-secret"] = "s0"
        result.secrets = LuksTests.secrets
        return result
    }

    @Test(.timeLimit(.minutes(4)), arguments: kinds)
    func conformance(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.edges, .concurrency, .random], rounds: 3)
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func crashes(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.crash])
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func faults(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.faults, .life])
    }
}

/// A small image of qcow version 1 in a store, with its places.
///
/// Clusters of 4096 bytes, L2 tables of one cluster. The layout: header, L1 (at 4096), data 0, L2 0 (12288),
/// data 1, data 2, data 512, L2 1 (28672), then a compressed cluster, 3.
enum QcowImage {
    static let cluster = 4096
    static let blocks = [0, 1, 2, 512, 3]
    static let values: [UInt8] = [1, 2, 3, 4, 5]

    static func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([Qcow2Driver.self, QcowDriver.self, RawDriver.self]))
    }

    static func make(size: Int = 4 * 512 * cluster, compressed: Bool = true) throws -> TestStore {
        let store = TestStore()
        var options = try opener(store).createOptions(format: "qcow", filename: "disk")
        try options.set(.size, to: String(size))
        try opener(store).create("disk", format: "qcow", options: options)
        let node = try open(store, readOnly: false)
        for (number, index) in blocks.enumerated() where index * cluster < size {
            let bytes = [UInt8](repeating: UInt8(number + 1), count: cluster)
            if number == 4 && compressed {
                try node.flush()
                try ImageWriting.writeCompressed(bytes, at: index * cluster, to: node)
            } else if number < 4 {
                try node.write(bytes.span.bytes, at: index * cluster)
            }
        }
        try node.close()
        store.clearLog()
        return store
    }

    static func open(
        _ store: TestStore, readOnly: Bool = true, forCheck: Bool = false
    ) throws(BlockError) -> BlockNode {
        let settings = OpenSettings(readOnly: readOnly, withoutBacking: true, forCheck: forCheck)
        return try opener(store).open("disk", settings: settings)
    }

    static func contents(_ node: BlockNode) throws -> [UInt8] {
        try blocks.map { try node.readBytes(at: $0 * cluster, count: 1)[0] }
    }

    static func check(_ store: TestStore, _ repair: RepairMode = .none) throws -> CheckResult {
        let node = try open(store, readOnly: repair == .none, forCheck: true)
        let result = try #require(node.format as? any Checkable).check(repair: repair) { _ in }
        try node.close()
        return result
    }

    static func patched(_ value: UInt64, at offset: Int, in store: TestStore) throws -> TestStore {
        var file = try #require(store["disk"])
        file.write(ImageBytes.big(value), at: offset)
        return TestStore(["disk": file])
    }
}

/// Damage and hostile headers.
@Suite struct QcowDamageTests {
    struct Damage: Sendable, CustomStringConvertible {
        var description: String
        var offset: Int
        var value: UInt64
        /// The first bytes of the clusters after a repair.
        var repaired: [UInt8]
    }

    private static let l2 = 3 * 4096
    private static let compressedFlag: UInt64 = 1 << 63

    static let damages = [
        Damage(description: "data over other data", offset: l2, value: 4 * 4096, repaired: [2, 2, 3, 4, 5]),
        Damage(
            description: "data beyond the end", offset: l2 + 8, value: 100 << 12,
            repaired: [1, 0, 3, 4, 5]),
        Damage(
            description: "data in the middle of the L1 table", offset: l2 + 8, value: 4096 + 8,
            repaired: [1, 0, 3, 4, 5]),
        Damage(
            description: "data at the end of all numbers", offset: l2 + 8, value: (1 << 63) - 512,
            repaired: [1, 0, 3, 4, 5]),
        Damage(
            description: "compressed data of no bytes", offset: l2 + 8, value: compressedFlag | 4096,
            repaired: [1, 0, 3, 4, 5]),
        Damage(
            description: "compressed data beyond the end", offset: l2 + 8,
            value: compressedFlag | 9 << 51 | 1 << 50,
            repaired: [1, 0, 3, 4, 5]),
        Damage(
            description: "compressed data, all bits", offset: l2 + 8, value: .max,
            repaired: [1, 0, 3, 4, 5]),
        Damage(
            description: "L2 table over another one", offset: 4096 + 8, value: 3 * 4096,
            repaired: [1, 2, 3, 0, 5]),
        Damage(description: "L2 table misaligned", offset: 4096 + 8, value: 77, repaired: [1, 2, 3, 0, 5]),
        Damage(
            description: "L2 table far away", offset: 4096 + 8, value: 1 << 40, repaired: [1, 2, 3, 0, 5]),
        Damage(description: "L2 table, all bits", offset: 4096 + 8, value: .max, repaired: [1, 2, 3, 0, 5]),
        Damage(
            description: "L2 table over the L1 table", offset: 4096 + 8, value: 4096,
            repaired: [1, 2, 3, 0, 5]),
    ]

    @Test func soundImagesAreSound() throws {
        let store = try QcowImage.make()
        let result = try QcowImage.check(store)
        #expect(result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0, "\(result)")
        #expect(result.allocatedClusters == 5 && result.compressedClusters == 1)
        #expect(result.totalClusters == 4 * 512)
        #expect(try QcowImage.contents(QcowImage.open(store)) == QcowImage.values)
    }

    @Test(arguments: damages) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        let store = try QcowImage.patched(damage.value, at: damage.offset, in: QcowImage.make())
        #expect(try QcowImage.check(store).corruptions == 1)
        let repair = try QcowImage.check(store, .all)
        #expect(repair.corruptions == 0 && repair.corruptionsFixed == 1)
        let after = try QcowImage.check(store)
        #expect(after.corruptions == 0 && after.checkErrors == 0, "\(after)")
        #expect(try QcowImage.contents(QcowImage.open(store)) == damage.repaired)
    }

    /// One of each kind.
    private static let interrupted = damages.filter {
        [
            "data over other data", "data beyond the end", "compressed data of no bytes",
            "L2 table over another one", "L2 table far away",
        ].contains($0.description)
    }

    @Test(.timeLimit(.minutes(2)), arguments: interrupted)
    func aRepairIsStoppedAnywhere(_ damage: Damage) throws {
        let files = try QcowImage.patched(damage.value, at: damage.offset, in: QcowImage.make()).files
        try checkInterruption(
            of: files, action: { store in _ = try QcowImage.check(store, .all) },
            verify: { store in
                _ = try QcowImage.check(store, .all)
                guard try QcowImage.check(store).corruptions == 0 else { throw Mismatch("not repaired") }
                let found = try QcowImage.contents(QcowImage.open(store))
                guard found == damage.repaired else { throw Mismatch("\(found)") }
            })
    }

    /// Entries that put data over the header, a table or the L1 table: nothing is written there.
    @Test(arguments: [512, 4096, 3 * 4096, 7 * 4096]) func writesStayOutOfTables(_ place: Int) throws {
        let store = try QcowImage.patched(UInt64(place), at: Self.l2, in: QcowImage.make())
        let before = try #require(store["disk"])
        guard place > 512 else {
            // The header's first sector alone is metadata there; the rest of the cluster is not used.
            let node = try QcowImage.open(store, readOnly: false)
            return try node.close()
        }
        let node = try QcowImage.open(store, readOnly: false)
        #expect(throws: BlockError.self) { try node.write(([9] as [UInt8]).span.bytes, at: 0) }
        #expect(throws: BlockError.self) { try node.writeZeroes(at: 0, count: 4096) }
        #expect(throws: BlockError.self) { try node.discard(at: 0, count: 4096) }
        try node.close()
        #expect(
            try #require(store["disk"]).read(at: 0, count: before.count)
                == before.read(at: 0, count: before.count))
    }

    /// The first ones are CVE-2014-0222 (size of L2 tables) and CVE-2014-0223 (size of the
    /// disk).
    static let hostile = ByteDamage.table(
        ("L2 bits", 0x21, [[0], [5], [14], [63], [255]]),
        (
            "disk size", 0x18,
            [
                [0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], [0x80, 0, 0, 0, 0, 0, 0, 1],
                [0x20, 0, 0, 0],
                [0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1],
            ]
        ),
        ("cluster bits", 0x20, [[8], [17], [0], [255]]),
        ("version", 4, [[0, 0, 0, 0]]),
        ("encryption", 0x24, [[0, 0, 0, 2]]),
        (
            "offset of the L1 table", 0x28,
            [
                [0xFF], [0, 0, 0, 0, 0, 0, 0, 8], [0, 0, 0, 0, 0, 0, 0, 49], [0, 0, 0, 1],
            ]
        ),
        (
            "backing name: offset and length", 8,
            [
                [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0], [0x7F, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 4], [0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 4],
                [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4],
            ]
        ))

    @Test(arguments: hostile) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let store = TestStore(["disk": damage.applied(to: try #require(QcowImage.make()["disk"]))])
        let error = blockError { () throws(BlockError) in
            try QcowImage.opener(store).open("disk", format: "qcow")
        }
        #expect(error != nil && error?.path == "disk")
    }

    @Test func garbageInCompressedClustersIsAnError() throws {
        var file = try #require(QcowImage.make()["disk"])
        file.write([UInt8](repeating: 0xFF, count: 64), at: 8 * 4096)
        let node = try QcowImage.open(TestStore(["disk": file]))
        #expect(throws: BlockError.self) { try node.readBytes(at: 3 * 4096, count: 1) }
        #expect(try node.readBytes(at: 2 * 4096, count: 1) == [3])
    }

    /// Both formats have the same magic bytes; the version tells.
    @Test func theVersionTellsTheFormat() throws {
        let store = try QcowImage.make()
        #expect(try QcowImage.open(store).driverName == "qcow")
        var file = try #require(store["disk"])
        file.write([0, 0, 0, 3], at: 4)
        store["disk"] = file
        let error = blockError { () throws(BlockError) in try QcowImage.open(store) }
        #expect(error != nil && error?.message.contains("qcow (v") == false)
    }
}
