import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// Differencing VHDX images: parents, sector bitmaps.
@Suite struct VhdxDifferencingTests {
    private static let unit = VhdxImages.unit

    /// `base` has blocks of 1, 2 and 3; `disk` is over it. Sectors of the size that is asked for.
    private static func store(sector: Int = 512) throws -> TestStore {
        let store = TestStore()
        try VhdxImages.create("base", in: store, size: 3 * unit, filled: 3)
        try VhdxImages.create(in: store, size: 3 * unit, backing: "base")
        for name in ["base", "disk"] {
            store[name]?.write(VhdxImages.bytes(UInt64(sector), 4), at: VhdxImages.items + 0x20)
        }
        return store
    }

    /// Gives block 1 of `disk` a place, filled with 7s, of which the bitmap has the first and third sector
    /// and the last two.
    private static func addPartialBlock(_ store: TestStore, sector: Int) throws {
        var file = try #require(store["disk"])
        let bits = unit / sector
        let first = bits
        let entries = (1 << 23) * sector / unit
        file.write([UInt8](repeating: 7, count: unit), at: VhdxImages.data)
        file.resize(to: VhdxImages.data + 2 * unit)
        let bitmap = VhdxImages.data + unit
        file.write([0b101], at: bitmap + first / 8)
        file.write([0b1100_0000], at: bitmap + (first + bits) / 8 - 1)
        file.write(VhdxImages.bytes(UInt64(VhdxImages.data) | 7), at: VhdxImages.bat + 8)
        file.write(VhdxImages.bytes(UInt64(bitmap) | 6), at: VhdxImages.bat + entries * 8)
        store["disk"] = file
    }

    private static func expected(sector: Int) -> [UInt8] {
        [7, 2, 7].flatMap { [UInt8](repeating: $0, count: sector) }
            + [UInt8](repeating: 2, count: unit - 5 * sector) + [UInt8](repeating: 7, count: 2 * sector)
    }

    @Test(arguments: [512, 4096]) func sectorBitmapsAreHeeded(_ sector: Int) throws {
        let store = try Self.store(sector: sector)
        try Self.addPartialBlock(store, sector: sector)
        let node = try VhdxImages.open(store)
        #expect(node.backing?.filename == "base")
        #expect(try VhdxImages.firstBytes(node) == [1, 7, 3])
        #expect(try node.readBytes(at: Self.unit, count: Self.unit) == Self.expected(sector: sector))
        #expect(try node.readBytes(at: Self.unit + 3 * sector - 1, count: 2) == [7, 2])
        try node.close()
        #expect(try VhdxImages.check(store) == CheckResult())
    }

    @Test(.timeLimit(.minutes(1)), arguments: [512, 4096]) func partialBlocksBecomeWhole(_ sector: Int) throws
    {
        let store = try Self.store(sector: sector)
        try Self.addPartialBlock(store, sector: sector)
        var wanted = Self.expected(sector: sector)
        for index in 3 * sector + 5..<3 * sector + 15 { wanted[index] = 9 }
        let before = Self.expected(sector: sector)
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try VhdxImages.open(store, readOnly: false)
                defer { try? node.close() }
                let nines = [UInt8](repeating: 9, count: 10)
                try node.write(nines.span.bytes, at: Self.unit + 3 * sector + 5)
                try node.close()
            },
            verify: { store in
                let node = try VhdxImages.open(store)
                let bytes = try node.readBytes(at: Self.unit, count: Self.unit)
                guard bytes == before || bytes == wanted else { throw Mismatch("other bytes") }
                guard try VhdxImages.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    @Test func partsAreZeroed() throws {
        let store = try Self.store()
        try Self.addPartialBlock(store, sector: 512)
        let node = try VhdxImages.open(store, readOnly: false)
        try node.writeZeroes(at: Self.unit + 512, count: 1024)
        try node.writeZeroes(at: 512, count: 512)
        try node.writeZeroes(at: 2 * Self.unit, count: Self.unit)
        let start = try node.readBytes(at: Self.unit + 511, count: 1026)
        #expect(start == [7] + [UInt8](repeating: 0, count: 1024) + [2])
        #expect(try node.readBytes(at: 511, count: 2) == [1, 0])
        #expect(try VhdxImages.firstBytes(node) == [1, 7, 0])
        try node.close()
        #expect(try VhdxImages.check(store).corruptions == 0)
    }

    @Test func aMissingBitmapIsFound() throws {
        let store = try Self.store()
        try Self.addPartialBlock(store, sector: 512)
        store["disk"]?.write([UInt8](repeating: 0, count: 8), at: VhdxImages.bat + 8192 * 4)
        #expect(throws: BlockError.self) {
            try VhdxImages.open(store).readBytes(at: Self.unit, count: 1)
        }
        #expect(throws: BlockError.self) { try VhdxImages.open(store, readOnly: false) }
        #expect(try VhdxImages.check(store, .all).corruptions == 1)
    }

    // MARK: Parents

    @Test func theParentMustBeTheRightOne() throws {
        let store = try Self.store()
        let parent = try VhdxImages.open(store, "base", readOnly: false)
        try parent.write(([5] as [UInt8]).span.bytes, at: 0)
        try parent.close()
        #expect(throws: BlockError.self) { try VhdxImages.open(store) }
        // Saying again which file it is makes it the right one.
        var tree = OptionTree()
        tree["backing"] = ""
        let node = try VhdxImages.opener(store)
            .open("disk", settings: OpenSettings(readOnly: false), options: tree)
        let driver = try #require(node.format as? any Rebasable)
        try driver.changeBacking(to: BackingReference(filename: "base", format: nil))
        try node.close()
        #expect(try VhdxImages.firstBytes(VhdxImages.open(store)) == [5, 2, 3])
        #expect(try VhdxImages.check(store) == CheckResult())
    }

    @Test func anotherFormatIsNoParent() throws {
        let store = try Self.store()
        store["base"] = SparseBytes([UInt8](repeating: 6, count: 3 * Self.unit))
        #expect(throws: BlockError.self) { try VhdxImages.open(store) }
        let named = ["backing.driver": "raw", "backing.file.filename": "base"]
        #expect(try VhdxImages.firstBytes(VhdxImages.open(store, "disk", named)) == [6, 6, 6])
        #expect(throws: BlockError.self) {
            try VhdxImages.create("other", in: store, size: Self.unit, backing: "base")
        }
    }

    @Test(.timeLimit(.minutes(1))) func theParentIsTakenAway() throws {
        let store = try Self.store()
        try Self.addPartialBlock(store, sector: 512)
        var wanted = Self.expected(sector: 512)
        for index in wanted.indices where wanted[index] == 2 { wanted[index] = 0 }
        let before = Self.expected(sector: 512)
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try VhdxImages.open(store, readOnly: false)
                defer { try? node.close() }
                try #require(node.format as? any Rebasable).changeBacking(to: nil)
                node.backing = nil
                try node.close()
            },
            verify: { store in
                let node = try VhdxImages.open(store)
                let bytes = try node.readBytes(at: Self.unit, count: Self.unit)
                let firsts = try VhdxImages.firstBytes(node)
                guard firsts == [1, 7, 3] && bytes == before || firsts == [0, 7, 0] && bytes == wanted
                else { throw Mismatch("\(firsts)") }
                guard try VhdxImages.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    @Test(.timeLimit(.minutes(1))) func anImageGetsAParent() throws {
        let store = TestStore()
        try VhdxImages.create("base", in: store, size: 3 * Self.unit, filled: 3)
        try VhdxImages.create(in: store, size: 3 * Self.unit, filled: 1, [(.blockStateZero, "off")])
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try VhdxImages.open(store, readOnly: false)
                defer { try? node.close() }
                let driver = try #require(node.format as? any Rebasable)
                try driver.changeBacking(to: BackingReference(filename: "base", format: "vhdx"))
                try driver.changeBacking(to: BackingReference(filename: "base", format: nil))
                try node.close()
            },
            verify: { store in
                guard try VhdxImages.firstBytes(VhdxImages.open(store)) == [1, 0, 0] else {
                    throw Mismatch("other bytes")
                }
                guard try VhdxImages.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
        #expect(try VhdxImages.open(store).format?.backing == nil)
    }

    @Test func emptyingFollowsTheParent() throws {
        let store = try Self.store()
        try Self.addPartialBlock(store, sector: 512)
        let node = try VhdxImages.open(store, readOnly: false)
        let parent = try #require(node.backing)
        try parent.reopen(readOnly: false)
        // As a commit does: the parent's next identity is announced before the parent has it.
        let overlay = try #require(node.format as? any ContentIdentifying)
        try overlay.announceIdentity(of: parent)
        try #require(parent.format as? any ContentIdentifying).renewIdentity()
        try overlay.adoptIdentity(of: parent)
        try parent.write([UInt8](repeating: 7, count: 512).span.bytes, at: Self.unit)
        try parent.flush()
        try node.makeEmpty()
        #expect(try VhdxImages.firstBytes(node) == [1, 7, 3])
        try node.close()
        let again = try VhdxImages.open(store)
        #expect(try VhdxImages.firstBytes(again) == [1, 7, 3])
        #expect(try again.layerExtent(at: 0, limit: 3 * Self.unit).status == .unallocated)
        try again.close()
        #expect(try VhdxImages.check(store) == CheckResult())
    }

    // MARK: Locators

    @Test func pathsOfWindowsAreUnderstood() throws {
        let linkage = ImageUUID(bytes: Array(1...16))
        let names: [([(String, String)], String?)] = [
            ([("relative_path", ".\\parent.vhdx")], "parent.vhdx"),
            ([("relative_path", "..\\a b\\parent.vhdx")], "../a b/parent.vhdx"),
            ([("relative_path", "nbd:x")], "./nbd:x"),
            ([("volume_path", "\\\\?\\Volume{26a21bda-a627-11d7}\\x\\parent.avhdx")], "parent.avhdx"),
            ([("relative_path", ""), ("absolute_win32_path", "\\\\?\\C:\\x\\p.vhdx")], "p.vhdx"),
            ([("absolute_win32_path", "C:\\x\\p.vhdx"), ("relative_path", ".\\q.vhdx")], "q.vhdx"), ([], nil),
            ([("relative_path", ".\\a\\\u{301}b.vhdx")], "a/\u{301}b.vhdx"),
        ]
        for (entries, name) in names {
            let locator = VhdxParentLocator(
                entries: entries.map { (key: $0.0, value: $0.1) } + [("parent_linkage", linkage.guidText)])
            let parsed = try VhdxParentLocator(parsing: locator.serialised().span.bytes)
            #expect(parsed == locator && parsed.filenames.first == name && parsed.linkages == [linkage])
        }
        let made = try VhdxParentLocator.make(linkage: linkage, filename: "a/b.vhdx")
        #expect(made["relative_path"] == ".\\a\\b.vhdx" && made.filenames == ["a/b.vhdx", "b.vhdx"])
        let absolute = try VhdxParentLocator.make(linkage: linkage, filename: "/a/b.vhdx")
        #expect(absolute.filenames == ["/a/b.vhdx", "b.vhdx"])
    }

    @Test func hostileLocatorsAreRefused() throws {
        let locator = try VhdxParentLocator.make(linkage: Vhdx.noGUID, filename: "base").serialised()
        let patches: [(Int, [UInt8])] = [
            (0, [9]), (18, [0xFF, 0xFF]), (20, [0xFF, 0xFF, 0xFF, 0xFF]), (24, [0xFF, 0xFF, 0xFF, 0x7F]),
            (28, [1]), (30, [0xFF, 0xFF]),
        ]
        for (offset, bytes) in patches {
            var damaged = locator
            damaged.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            #expect(throws: BlockError.self, "\(offset)") {
                try VhdxParentLocator(parsing: damaged.span.bytes)
            }
        }
    }
}
