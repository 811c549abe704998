import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the QED driver promises.
@Suite struct QedTests {
    static let kinds = [(4096, 1, false), (4096, 4, true), (65536, 16, true)].map { cluster, table, backing in
        let size = cluster * 20 + 1536
        return FormatConfiguration(
            QedDriver.self,
            options: [(name: "cluster_size", value: "\(cluster)"), (name: "table_size", value: "\(table)")],
            virtualSize: size, backingSize: backing ? size * 2 / 3 / 512 * 512 + 256 : nil)
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func conformance(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration])
    }
}

/// Damage, interruption and names in QED images.
@Suite struct QedImageTests {
    static let cluster = 4096

    /// An image of four tables' worth of disk with data in clusters 0, 1, 2 and 512 (its second table).
    static func image() throws -> TestStore {
        let store = TestStore()
        let opener = ImageOpener(registry: store.registry([QedDriver.self, RawDriver.self]))
        var options = try opener.createOptions(format: "qed", filename: "disk")
        try options.set(name: "cluster_size", to: "4096")
        try options.set(name: "table_size", to: "1")
        try options.set(.size, to: String(4 * 512 * cluster))
        try opener.create("disk", format: "qed", options: options)
        let node = try open(store, readOnly: false)
        for (number, index) in [0, 1, 2, 512].enumerated() {
            try node.write(
                [UInt8](repeating: UInt8(number + 1), count: cluster).span.bytes, at: index * cluster)
        }
        try node.close()
        store.clearLog()
        return store
    }

    static func open(
        _ store: TestStore, readOnly: Bool = true, forCheck: Bool = false
    ) throws(BlockError) -> BlockNode {
        let opener = ImageOpener(registry: store.registry([QedDriver.self, RawDriver.self]))
        return try opener.open("disk", settings: OpenSettings(readOnly: readOnly, forCheck: forCheck))
    }

    static func contents(_ node: BlockNode) throws -> [UInt8] {
        try [0, 1, 2, 512].map { try node.readBytes(at: $0 * cluster, count: 1)[0] }
    }

    static func check(_ store: TestStore, _ repair: RepairMode = .none) throws -> CheckResult {
        let node = try open(store, readOnly: repair == .none, forCheck: true)
        defer { try? node.close() }
        return try #require(node.format as? any Checkable).check(repair: repair) { _ in }
    }

    /// The layout: header, L1, data 0, L2 0, data 1, data 2, data 512, L2 1.
    struct Damage: Sendable, CustomStringConvertible {
        var description: String
        var offset: Int
        var value: UInt64
        var corruptions: Int
        /// The first bytes of the four clusters after a repair.
        var repaired: [UInt8]
    }

    static let damages = [
        data("over other data", 0, 4 * 4096, [2, 2, 3, 4]),
        data("misaligned", 1, 100, [1, 0, 3, 4]),
        data("far outside", 1, 1 << 62, [1, 0, 3, 4]),
        data("over the L1 table", 1, 4096, [1, 0, 3, 4]),
        table("over another table", 3 * 4096),
        table("misaligned", 77),
        table("far outside", 1 << 40),
    ]

    /// An entry of the first L2 table.
    private static func data(_ place: String, _ index: Int, _ value: UInt64, _ repaired: [UInt8]) -> Damage {
        Damage(
            description: "data \(place)", offset: 3 * cluster + index * 8, value: value, corruptions: 1,
            repaired: repaired)
    }

    /// The entry of the L1 table for the second L2 table.
    private static func table(_ place: String, _ value: UInt64) -> Damage {
        Damage(
            description: "L2 table \(place)", offset: cluster + 8, value: value, corruptions: 1,
            repaired: [1, 2, 3, 0])
    }

    private static func damaged(_ damage: Damage) throws -> TestStore {
        let store = try image()
        var file = try #require(store["disk"])
        file.write(ImageBytes.little(damage.value), at: damage.offset)
        return TestStore(["disk": file])
    }

    @Test(arguments: damages) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        let store = try Self.damaged(damage)
        #expect(try Self.check(store).corruptions == damage.corruptions)
        #expect(try Self.check(store, .all).corruptions == 0)
        let after = try Self.check(store)
        #expect(after.corruptions == 0 && after.checkErrors == 0, "\(after)")
        // A copy of what the header or a table holds is no data, but better than nothing.
        let found = try Self.contents(Self.open(store, readOnly: false))
        let isCopy = damage.value == 4096
        #expect(isCopy ? found[0] == 1 && found[2...] == [3, 4] : found == damage.repaired)
    }

    @Test(
        .timeLimit(.minutes(2)),
        arguments: damages.filter {
            ["data over other data", "data misaligned", "L2 table over another table"].contains(
                $0.description)
        })
    func aRepairIsStoppedAnywhere(_ damage: Damage) throws {
        try checkInterruption(
            of: Self.damaged(damage).files,
            action: { store in _ = try Self.check(store, .all) },
            verify: { store in
                _ = try Self.check(store, .all)
                guard try Self.check(store).corruptions == 0 else { throw Mismatch("not repaired") }
                let found = try Self.contents(Self.open(store))
                guard found == damage.repaired else { throw Mismatch("\(found)") }
            })
    }

    /// Data that an entry puts over a table is not written there.
    @Test func writesStayOutOfTables() throws {
        let store = try Self.damaged(Self.data("over a table", 0, 7 * 4096, []))
        let before = try #require(store["disk"]).read(at: 7 * 4096, count: 4096)
        let node = try Self.open(store, readOnly: false)
        #expect(throws: BlockError.self) { try node.write([UInt8(9)].span.bytes, at: 0) }
        #expect(throws: BlockError.self) { try node.writeZeroes(at: 0, count: 4096) }
        try node.close()
        #expect(try #require(store["disk"]).read(at: 7 * 4096, count: 4096) == before)
    }

    static let hostile = ByteDamage.table(
        ("cluster size", 4, [[0, 2, 0, 0], [1, 16, 0, 0]]),
        ("cluster size, high byte", 7, [[0x80]]),
        ("table size", 8, [[0], [3], [32]]),
        ("header size", 12, [[0], [0xFF, 0xFF, 0xFF, 0xFF]]),
        ("features", 16, [[0xF8], [1, 0, 0, 0]]),
        ("offset of the L1 table", 0x28, [[1], [0, 0]]),
        ("offset of the L1 table, high byte", 0x2F, [[0x40], [0xFF]]),
        ("disk size", 0x30, [[1]]),
        ("disk size, high byte", 0x37, [[0x7F], [0xFF]]))

    @Test(arguments: hostile) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let file = damage.applied(to: try #require(Self.image()["disk"]))
        #expect(throws: BlockError.self) { try Self.open(TestStore(["disk": file])) }
    }

    /// With the largest clusters and tables, sums of offsets would leave the numbers.
    @Test func theLargestDiskIsBounded() throws {
        var file = SparseBytes(count: (64 << 20) * 17)
        file.write(Array("QED\0".utf8) + [0, 0, 0, 4, 16, 0, 0, 0, 1], at: 0)
        file.write([4], at: 0x2B)
        file.write([0, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], at: 0x30)
        #expect(throws: BlockError.self) { try Self.open(TestStore(["disk": file])) }
        file.write([0, 0, 0, 0, 0, 0, 0, 0x20], at: 0x30)
        let store = TestStore(["disk": file])
        #expect(try Self.open(store).length() == 1 << 61)
        #expect(try Self.check(store).corruptions == 0)
    }

    @Test func anImageThatWasNotClosedIsMendedBeforeItIsWrittenTo() throws {
        let store = try Self.image()
        var file = try #require(store["disk"])
        file.write([2], at: 0x10)
        // A cluster at the end that nothing refers to.
        file.resize(to: file.count + 4096)
        store["disk"] = file
        #expect(try Self.open(store).format?.describe().isDirty == true)
        #expect(try Self.check(store).leaks == 1)
        try Self.open(store, readOnly: false).close()
        #expect(try Self.check(store).leaks == 0)
        #expect(try Self.open(store).format?.describe().isDirty == false)
        #expect(try Self.contents(Self.open(store)) == [1, 2, 3, 4])
    }

    /// An entry behind the end of the disk that has the place of one inside is found, and resizing does not
    /// believe it.
    @Test func entriesBehindTheEndAreNoDanger() throws {
        for repairs in [false, true] {
            let store = try Self.image()
            var file = try #require(store["disk"])
            // The fifth table, of a disk that has four, is the first one.
            file.write([0, 0x30], at: Self.cluster + 4 * 8)
            store["disk"] = file
            #expect(try Self.check(store).corruptions == 1)
            if repairs { #expect(try Self.check(store, .all).corruptionsFixed == 1) }
            let node = try Self.open(store, readOnly: false)
            try node.resize(to: 8 * 512 * Self.cluster)
            #expect(try node.readBytes(at: 4 * 512 * Self.cluster, count: 4096).allSatisfy { $0 == 0 })
            try node.close()
            #expect(try Self.contents(Self.open(store)) == [1, 2, 3, 4])
            #expect(try Self.check(store).corruptions == 0)
        }
    }

    /// QEMU opens no image whose tables could map more than numbers can say.
    @Test(arguments: [("4M", "4", false), ("4M", "1", true), ("64M", "1", false), ("1M", "4", true)])
    func sizesThatNobodyOpensAreNotMade(_ cluster: String, _ table: String, _ works: Bool) throws {
        let store = TestStore()
        let opener = ImageOpener(registry: store.registry([QedDriver.self, RawDriver.self]))
        var options = try opener.createOptions(format: "qed", filename: "disk")
        try options.set(name: "cluster_size", to: cluster)
        try options.set(name: "table_size", to: table)
        try options.set(.size, to: String(1 << 30))
        #expect(((try? opener.create("disk", format: "qed", options: options)) != nil) == works)
    }

    /// Opening must not copy a cluster for each of very many entries that share it; a check that was asked
    /// for makes zeroes of a hole.
    @Test func manySharedClustersAreLeftToACheck() throws {
        let store = TestStore()
        let opener = ImageOpener(registry: store.registry([QedDriver.self, RawDriver.self]))
        var options = try opener.createOptions(format: "qed", filename: "disk")
        try options.set(name: "cluster_size", to: "1M")
        try options.set(name: "table_size", to: "1")
        try options.set(.size, to: String(1 << 30))
        try opener.create("disk", format: "qed", options: options)
        let node = try Self.open(store, readOnly: false)
        try node.write([UInt8(1)].span.bytes, at: 5 << 20)
        try node.close()
        // The layout: header, L1, cluster 5, its table.
        var file = try #require(store["disk"])
        for entry in 0..<600 { file.write([0, 0, 0x20, 0, 0, 0, 0, 0], at: 3 << 20 + entry * 8) }
        file.write([0], at: 2 << 20)
        file.zero(2 << 20..<3 << 20)
        file.write([2], at: 0x10)
        store["disk"] = file
        let error = #expect(throws: BlockError.self) { try Self.open(store, readOnly: false) }
        #expect(error?.kind == .corrupt)
        #expect(store["disk"] == file)
        let repaired = try Self.check(store, .all)
        #expect(repaired.corruptions == 0 && repaired.corruptionsFixed == 599, "\(repaired)")
        #expect(try #require(store["disk"]).count == file.count)
        #expect(try Self.open(store, readOnly: false).readBytes(at: 0, count: 1) == [0])
    }

    static let names = ["b", String(repeating: "n", count: 448), String(repeating: "m", count: 1023), ""]

    @Test(.timeLimit(.minutes(2)), arguments: names, names) func theBackingNameIsOldOrNew(
        _ old: String, _ new: String
    ) throws {
        func reference(_ name: String) -> BackingReference? {
            name.isEmpty ? nil : BackingReference(filename: name, format: "raw")
        }
        func change(_ store: TestStore, to name: String) throws {
            let opener = ImageOpener(registry: store.registry([QedDriver.self, RawDriver.self]))
            let node = try opener.open("disk", settings: OpenSettings(readOnly: false, withoutBacking: true))
            defer { try? node.close() }
            try #require(node.format as? any Rebasable).changeBacking(to: reference(name))
        }
        let store = try Self.image()
        try change(store, to: old)
        try checkInterruption(
            of: store.files, action: { store in try change(store, to: new) },
            verify: { store in
                let opener = ImageOpener(registry: store.registry([QedDriver.self, RawDriver.self]))
                let node = try opener.open("disk", settings: OpenSettings(withoutBacking: true))
                let now = node.format?.backing
                guard now == reference(old) || now == reference(new) else {
                    throw Mismatch("\(String(describing: now))")
                }
                guard try Self.contents(node) == [1, 2, 3, 4] else { throw Mismatch("other bytes") }
            })
    }

    @Test func emptyingIsStoppedAnywhere() throws {
        try checkInterruption(
            of: Self.image().files,
            action: { store in
                let node = try Self.open(store, readOnly: false)
                defer { try? node.close() }
                try node.makeEmpty()
            },
            verify: { store in
                let found = try Self.contents(Self.open(store))
                guard zip(found, [1, 2, 3, 4] as [UInt8]).allSatisfy({ $0 == 0 || $0 == $1 }) else {
                    throw Mismatch("\(found)")
                }
                guard try Self.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }
}
