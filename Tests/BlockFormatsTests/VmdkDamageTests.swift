import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Damaged headers, tables and grains: what is refused, what a check finds, and what a repair keeps.
@Suite struct VmdkDamageTests {
    static let hostile = ByteDamage.table(
        ("version", 4, [[0], [4]]),
        ("flags, high half", 10, [[1]]),
        ("disk size, high bytes", 18, [[1]]),
        ("grain size", 20, [[0], [3]]),
        ("grain size, high bytes", 22, [[1]]),
        ("entries of a table", 44, [[0], [1], [0, 1, 1]]),
        ("offset of the directory", 56, [[0], [0, 0, 0, 1], [255, 255, 255, 255, 255, 255, 255, 255]]),
        ("offset of the directory, high bytes", 62, [[255]]),
        ("line end check", 73, [[0x20]]),
        ("offset of the descriptor", 28, [[0], [255, 255, 255, 255, 255, 255, 255, 127]]),
        ("size of the descriptor", 36, [[0]]))

    @Test(arguments: hostile) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let file = damage.applied(to: VmdkImageTests.single([0: 64]))
        #expect(throws: BlockError.self) { try VmdkImageTests.open(TestStore(["disk": file])) }
    }

    struct Damage: Sendable, CustomStringConvertible {
        var description: String
        var grains: [Int: UInt32]
        /// In sectors.
        var length: Int?
        var corruptions = 0
        var leaks = 0
        /// The first bytes of the first four grains after the repair.
        var repaired: [UInt8]
        /// Bytes that are changed, and where.
        var patch: ByteDamage<Void>?
    }

    static let damages = [
        Damage(
            description: "shared grain", grains: [0: 64, 1: 64], corruptions: 1, repaired: [1, 1, 0, 0]),
        Damage(
            description: "grain over a table", grains: [0: 64, 1: 2], corruptions: 1, repaired: [1, 7, 0, 0]),
        Damage(
            description: "grain outside", grains: [0: 64, 2: 100_000], corruptions: 1,
            repaired: [1, 0, 0, 0]),
        Damage(description: "grains of nobody", grains: [0: 72, 2: 96], leaks: 3, repaired: [1, 0, 3, 0]),
        Damage(
            description: "grain in two others", grains: [0: 64, 1: 68], corruptions: 1,
            repaired: [1, 1, 0, 0]),
        patched("primary table elsewhere", at: 1024, [0xFF, 0xFF, 0xFF], [1, 2, 0, 0]),
        patched("no primary table", at: 1024, [1, 0, 0, 0], [1, 2, 0, 0]),
        Damage(
            description: "only the redundant directory is in the file", grains: [0: 64, 3: 72],
            corruptions: 1, repaired: [1, 0, 0, 4],
            patch: ByteDamage("directory", at: 58, [1], ())),
        Damage(
            description: "the redundant table lacks a grain", grains: [0: 64, 1: 72], leaks: 1,
            repaired: [1, 2, 0, 0], patch: ByteDamage("grain 1", at: 3 * 512 + 4, [0], ())),
    ]

    /// Grains 0 and 1, with other bytes in the directory.
    private static func patched(
        _ description: String, at offset: Int, _ bytes: [UInt8], _ repaired: [UInt8]
    ) -> Damage {
        Damage(
            description: description, grains: [0: 64, 1: 72], corruptions: 1, repaired: repaired,
            patch: ByteDamage(description, at: offset, bytes, ()))
    }

    static func damaged(_ damage: Damage) -> SparseBytes {
        let file = VmdkImageTests.single(damage.grains, length: damage.length)
        return damage.patch?.applied(to: file) ?? file
    }

    @Test(arguments: damages) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        let store = TestStore(["disk": Self.damaged(damage)])
        let found = try VmdkImageTests.check(store)
        #expect(found.corruptions == damage.corruptions && found.leaks == damage.leaks, "\(found)")
        let repaired = try VmdkImageTests.check(store, .all)
        #expect(repaired.corruptions == 0 && repaired.leaks == 0, "\(repaired)")
        #expect(try VmdkImageTests.check(store) == CheckResult())
        #expect(
            try VmdkImageTests.firstBytes(VmdkImageTests.open(store, readOnly: false), 4) == damage.repaired)
    }

    @Test(.timeLimit(.minutes(2)), arguments: damages)
    func aRepairIsStoppedAnywhere(_ damage: Damage) throws {
        try checkInterruption(
            of: ["disk": Self.damaged(damage)],
            action: { store in _ = try VmdkImageTests.check(store, .all) },
            verify: { store in
                _ = try VmdkImageTests.check(store, .all)
                guard try VmdkImageTests.check(store) == CheckResult() else { throw Mismatch("not repaired") }
                guard try VmdkImageTests.firstBytes(VmdkImageTests.open(store), 4) == damage.repaired else {
                    throw Mismatch("other bytes")
                }
            })
    }

    /// What an entry over metadata shows may be read, but not written to.
    @Test func metadataAreNotWrittenTo() throws {
        for entry: UInt32 in [0, 1, 2, 3, 4, 40] {
            var file = VmdkImageTests.single([1: 64], flags: 3)
            VmdkBytes.put(Int(entry == 0 ? 1 : entry), 4, 7 * 512, &file)
            let store = TestStore(["disk": file])
            let node = try VmdkImageTests.open(store, readOnly: false)
            #expect(throws: BlockError.self, "\(entry)") { try node.write([UInt8(9)].span.bytes, at: 0) }
            try? node.close()
        }
    }

    // MARK: Compressed grains

    /// CVE-2026-2243: a marker that says more than there is; and markers of other grains, or of none.
    @Test func damagedMarkersAreErrors() throws {
        let store = TestStore()
        var configuration = VmdkTests.stream[0]
        configuration.virtualSize = 1 << 20
        try configuration.createImage(in: store)
        let node = try VmdkImageTests.open(store, readOnly: false)
        try node.write([UInt8](repeating: 5, count: 1 << 17).span.bytes, at: 0)
        try node.close()
        let good = try #require(store["disk"])
        #expect(try VmdkImageTests.firstBytes(VmdkImageTests.open(store), 2) == [5, 5])
        let start = 128 * 512
        for (offset, bytes) in [
            (8, [255, 255, 255, 255]), (8, [0, 0, 16, 0]), (8, [0, 0, 0, 0]), (8, [20, 0, 0, 0]), (0, [1]),
            (7, [128]), (12, [0]), (30, [1, 2, 3, 4]),
        ] as [(Int, [UInt8])] {
            var file = good
            file.write(bytes, at: start + offset)
            let damaged = TestStore(["disk": file])
            #expect(throws: BlockError.self, "\(offset)") {
                try VmdkImageTests.firstBytes(VmdkImageTests.open(damaged), 1)
            }
        }
        var cut = good
        cut.resize(to: start + 20)
        #expect(throws: BlockError.self) {
            try VmdkImageTests.firstBytes(VmdkImageTests.open(TestStore(["disk": cut])), 1)
        }
        var marker = good
        marker.write([3], at: start)
        #expect(try VmdkImageTests.check(TestStore(["disk": marker])).corruptions == 1)
    }
}
