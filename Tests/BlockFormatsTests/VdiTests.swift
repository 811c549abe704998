import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the VDI driver promises.
@Suite struct VdiTests {
    static let kinds = [false, true].map { isStatic in
        FormatConfiguration(
            VdiDriver.self, options: isStatic ? [(name: "static", value: "on")] : [],
            virtualSize: (3 << 20) + 512)
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func conformance(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration])
    }
}

/// Images as VirtualBox, not Platter, lays them out: other block sizes, extra bytes, parents, damage.
@Suite struct VdiImageTests {
    static let map = 512
    static let data = 4096

    /// The bytes of an image with the entries, whose stored blocks are filled with their own number plus 1.
    static func image(
        blockBytes: Int = 4096, extra: Int = 0, type: UInt32 = 1, size: Int? = nil, count: Int? = nil,
        _ entries: [UInt32]
    ) -> SparseBytes {
        var image = ImageBytes(.little)
        let stored = entries.filter { $0 < 0xFFFF_FFFE }.map { Int($0) }
        let highest = (stored.max() ?? -1) + 1
        for (value, offset) in [
            (0xBEDA_107F, 0x40), (0x10001, 0x44), (0x190, 0x48), (Int(type), 0x4C), (map, 0x154),
            (data, 0x158),
            (512, 0x168), (blockBytes, 0x178), (extra, 0x17C), (entries.count, 0x180),
            (count ?? highest, 0x184),
        ] {
            image.put(value, at: offset)
        }
        image.put(size ?? entries.count * blockBytes, at: 0x170, bytes: 8)
        for (index, entry) in entries.enumerated() { image.put(entry, at: map + index * 4) }
        image.truncate(to: data + min(highest, 100) * (blockBytes + extra))
        for block in stored where block < 100 {
            let start = data + block * (blockBytes + extra) + extra
            image.fill(UInt8(block + 1), count: blockBytes, at: start)
        }
        return image.file
    }

    @Test func theParentIsTheStatedOne() throws {
        var child = Self.image(type: 4, [0xFFFF_FFFF, 0])
        child.write([UInt8](repeating: 7, count: 16), at: 0x1A8)
        child.write([UInt8](repeating: 8, count: 16), at: 0x1B8)
        var base = Self.image([0, 1])
        base.write([UInt8](repeating: 7, count: 16), at: 0x188)
        var other = base
        other.write([9], at: 0x188)
        let store = TestStore(["disk": child, "base": base, "other": other])
        func options(_ name: String, _ more: [String: String] = [:]) -> [String: String] {
            more.merging(["backing.driver": "vdi", "backing.file.filename": name]) { $1 }
        }
        let node = try Self.open(store, options("base"))
        #expect(try node.readBytes(at: 0, count: 1) == [1])
        #expect(try node.format?.describe().specific?.last == InfoField("parent-uuid", .text(Self.sevens)))
        try node.close()
        #expect(throws: BlockError.self) { try Self.open(store, options("other")) }
        let read = try Self.open(store, options("other", ["parent-check": "off"]))
        #expect(try read.readBytes(at: 0, count: 1) == [1])
        try read.close()
    }

    private static let sevens = "07070707-0707-0707-0707-070707070707"

    static func open(
        _ store: TestStore, readOnly: Bool = true, forCheck: Bool = false, _ options: [String: String] = [:]
    ) throws(BlockError) -> BlockNode {
        var tree = OptionTree()
        for (key, value) in options { tree[key] = value }
        let opener = ImageOpener(registry: store.registry([VdiDriver.self, RawDriver.self]))
        return try opener.open(
            "disk", settings: OpenSettings(readOnly: readOnly, forCheck: forCheck), options: tree)
    }

    static func firstBytes(_ node: BlockNode, blockBytes: Int = 4096) throws -> [UInt8] {
        try stride(from: 0, to: node.length(), by: blockBytes).map { try node.readBytes(at: $0, count: 1)[0] }
    }

    static func check(_ store: TestStore, _ repair: RepairMode = .none) throws -> CheckResult {
        let node = try open(store, readOnly: repair == .none, forCheck: true)
        defer { try? node.close() }
        return try #require(node.format as? any Checkable).check(repair: repair) { _ in }
    }

    @Test(arguments: [(512, 0), (4096, 0), (4096, 512), (65536, 4096)])
    func otherBlockSizes(_ blockBytes: Int, _ extra: Int) throws {
        let none: UInt32 = 0xFFFF_FFFF
        let store = TestStore([
            "disk": Self.image(blockBytes: blockBytes, extra: extra, [1, none, 0, 0xFFFF_FFFE])
        ])
        let node = try Self.open(store, readOnly: false)
        #expect(try Self.firstBytes(node, blockBytes: blockBytes) == [2, 0, 1, 0])
        try node.write([UInt8(9)].span.bytes, at: blockBytes)
        #expect(try node.readBytes(at: 0, count: blockBytes) == [UInt8](repeating: 2, count: blockBytes))
        try node.close()
        let again = try Self.open(store)
        #expect(try Self.firstBytes(again, blockBytes: blockBytes) == [2, 9, 1, 0])
        #expect(try Self.check(store) == CheckResult())
    }

    @Test func aDifferencingImageWantsItsParentNamed() throws {
        let none: UInt32 = 0xFFFF_FFFF
        let store = TestStore(["disk": Self.image(type: 4, [none, 0, 0xFFFF_FFFE])])
        store["base"] = SparseBytes([UInt8](repeating: 7, count: 3 * 4096))
        #expect(throws: BlockError.self) { try Self.open(store) }
        let parent = ["backing.driver": "raw", "backing.file.filename": "base"]
        let node = try Self.open(store, readOnly: false, parent)
        #expect(try Self.firstBytes(node) == [7, 1, 0])
        try node.write([UInt8(9)].span.bytes, at: 100)
        let around = try node.readBytes(at: 99, count: 3)
        #expect(around == [7, 9, 7])
        try node.writeZeroes(at: 0, count: 4096)
        #expect(try Self.firstBytes(node) == [0, 1, 0])
        try node.close()
        #expect(try Self.check(store) == CheckResult())
    }

    // MARK: Damage

    struct Damage: Sendable, CustomStringConvertible {
        var description: String
        var entries: [UInt32]
        var count: Int?
        var corruptions: Int
        var leaks: Int
        /// Whether the file lacks a block, which cannot be read before the repair.
        var isLoss = false
        /// The first bytes of the blocks after the repair.
        var repaired: [UInt8]
    }

    static let damages = [
        Damage(
            description: "shared block", entries: [0, 0], count: 1, corruptions: 1, leaks: 0,
            repaired: [1, 1]),
        Damage(
            description: "count too low", entries: [0, 1, 2], count: 1, corruptions: 2, leaks: 0,
            repaired: [1, 2, 3]),
        Damage(
            description: "blocks of nobody", entries: [2, 0xFFFF_FFFF], count: 5, corruptions: 0, leaks: 4,
            repaired: [3, 0]),
        Damage(
            description: "block far outside", entries: [0, 4_000_000], count: 1, corruptions: 2, leaks: 0,
            isLoss: true, repaired: [1, 0]),
        Damage(
            description: "block outside", entries: [0, 90], count: 91, corruptions: 2, leaks: 67,
            repaired: [1, 91]),
        Damage(
            description: "count far too high", entries: [1, 0], count: 4_000_000_000, corruptions: 1,
            leaks: 66, repaired: [2, 1]),
    ]

    @Test(arguments: damages) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        let store = TestStore(["disk": Self.image(count: damage.count, damage.entries)])
        let found = try Self.check(store)
        #expect(found.corruptions == damage.corruptions && found.leaks == damage.leaks, "\(found)")
        if damage.corruptions > 0 {
            #expect(throws: BlockError.self) { try Self.open(store, readOnly: false) }
        }
        let repaired = try Self.check(store, .all)
        #expect(repaired.corruptions == 0 && repaired.leaks == 0, "\(repaired)")
        #expect(try Self.check(store) == CheckResult())
        #expect(try Self.firstBytes(Self.open(store, readOnly: false)) == damage.repaired)
    }

    /// A block that is a hole, and that a whole map refers to, is no work.
    @Test(.timeLimit(.minutes(1))) func sharedHolesBecomeZeroes() throws {
        var file = Self.image([UInt32](repeating: 0, count: 800))
        file.zero(Self.data..<Self.data + 4096)
        let store = TestStore(["disk": file])
        #expect(try Self.check(store).corruptions == 799)
        let repaired = try Self.check(store, .all)
        #expect(repaired.corruptions == 0 && repaired.corruptionsFixed == 799, "\(repaired)")
        #expect(try Self.check(store) == CheckResult())
        #expect(try #require(store["disk"]).count == file.count)
        #expect(try Self.firstBytes(Self.open(store)).allSatisfy { $0 == 0 })
    }

    @Test(.timeLimit(.minutes(2)), arguments: damages) func aRepairIsStoppedAnywhere(_ damage: Damage) throws
    {
        try checkInterruption(
            of: ["disk": Self.image(count: damage.count, damage.entries)],
            action: { store in _ = try Self.check(store, .all) },
            verify: { store in
                let bytes = { try Self.firstBytes(Self.open(store)) }
                let before = damage.isLoss ? (try? bytes()) ?? damage.repaired : try bytes()
                guard before == damage.repaired else { throw Mismatch("other bytes") }
                _ = try Self.check(store, .all)
                guard try bytes() == damage.repaired else { throw Mismatch("other bytes after the repair") }
                guard try Self.check(store) == CheckResult() else { throw Mismatch("not repaired") }
            })
    }

    static let hostile = ByteDamage.table(
        ("version", 0x44, [[2]]),
        ("kind of image", 0x4C, [[9]]),
        ("offset of the map", 0x154, [[1], [0, 0]]),
        ("offset of the data", 0x158, [[7]]),
        ("disk size", 0x170, [[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]]),
        ("disk size, high half", 0x174, [[1]]),
        ("block size", 0x178, [[0, 0], [1]]),
        ("block size, high byte", 0x17B, [[0x80]]),
        ("extra bytes of a block", 0x17C, [[0xFF, 0xFF, 0xFF, 0xFF]]),
        ("number of blocks", 0x180, [[0xFF, 0xFF, 0xFF, 0xFF], [0], [0, 4]]))

    @Test(arguments: hostile) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let store = TestStore(["disk": damage.applied(to: Self.image([0, 1]))])
        #expect(throws: BlockError.self) { try Self.open(store) }
    }

    // MARK: Sizes

    /// A longer map does not fit before the data any more, and takes the places of blocks.
    @Test(.timeLimit(.minutes(3)), arguments: [1, 2, 4, 900, 3000])
    func growingMovesTheMap(_ blocks: Int) throws {
        let none: UInt32 = 0xFFFF_FFFF
        let files = ["disk": Self.image([1, none, 0, 2])]
        try checkInterruption(
            of: files,
            action: { store in
                let node = try Self.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: (4 + blocks) * 4096)
                try node.write([UInt8(9)].span.bytes, at: (3 + blocks) * 4096)
                try node.flush()
            },
            verify: { store in
                let node = try Self.open(store)
                let bytes = try Self.firstBytes(node)
                try node.close()
                let isOld = bytes == [2, 0, 1, 3]
                let isNew =
                    bytes.starts(with: [2, 0, 1, 3]) && bytes.count == 4 + blocks
                    && bytes.dropFirst(4).dropLast().allSatisfy { $0 == 0 } && [0, 9].contains(bytes.last)
                guard isOld || isNew else { throw Mismatch("\(bytes.prefix(10)) \(bytes.count)") }
                guard try Self.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    /// The header has 32 bits for where the data begin.
    @Test func aMapThatCannotMoveIsLeftAlone() throws {
        var file = Self.image(blockBytes: 1 << 20, [0xFFFF_FFFF])
        file.write([0, 0xFE, 0xFF, 0xFF], at: 0x158)
        file.write([0, 0xFC, 0xFF, 0xFF], at: 0x154)
        file.resize(to: 0xFFFF_FE00)
        file.write([0xFF, 0xFF, 0xFF, 0xFF], at: 0xFFFF_FC00)
        let store = TestStore(["disk": file])
        let node = try Self.open(store, readOnly: false)
        #expect(throws: BlockError.self) { try node.resize(to: 4096 << 20) }
        #expect(try node.length() == 1 << 20)
        try node.close()
        #expect(try Self.check(store) == CheckResult())
    }

    @Test(.timeLimit(.minutes(1))) func shrinkingClosesTheGaps() throws {
        try checkInterruption(
            of: ["disk": Self.image([3, 1, 0, 2])],
            action: { store in
                let node = try Self.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: 2 * 4096)
            },
            verify: { store in
                let bytes = try Self.firstBytes(Self.open(store))
                guard bytes == [4, 2] || bytes == [4, 2, 1, 3] else { throw Mismatch("\(bytes)") }
                guard try Self.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
                let node = try Self.open(store, readOnly: false)
                try node.resize(to: 2 * 4096)
                try node.resize(to: 4 * 4096)
                let grown = try Self.firstBytes(node)
                try node.close()
                guard grown == [4, 2, 0, 0] else { throw Mismatch("grown: \(grown)") }
            })
    }

    /// The place of a block that is given up stays counted: what lies there may be looked for by hand.
    @Test func givingABlockUpLowersNoCount() throws {
        var file = Self.image(count: 3, [0, 9])
        file.resize(to: Self.data + 3 * 4096)
        let store = TestStore(["disk": file])
        #expect(try Self.check(store, .all).corruptions == 0)
        #expect(try #require(store["disk"]).read(at: 0x184, count: 4) == [3, 0, 0, 0])
    }
}
