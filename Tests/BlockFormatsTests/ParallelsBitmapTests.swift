import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// The format extension: dirty bitmaps, and what is not understood.
@Suite struct ParallelsBitmapTests {
    static let name = "01234567-89ab-cdef-0123-456789abcdef"

    /// An image of four blocks, the third and the fourth allocated, with an extension in cluster 1 and a
    /// bitmap's bits in cluster 2.
    static func image(
        _ sections: [ParallelsExtension.Section], sector: Int = 8
    ) throws -> SparseBytes {
        var file = ParallelsImage.file(clusters: 5, extensionSector: sector, [0, 0, 3, 4])
        file.write(try ParallelsExtension.serialised(sections, clusterBytes: 4096), at: 4096)
        file.write([0b101] + [UInt8](repeating: 0, count: 4095), at: 2 * 4096)
        return file
    }

    /// A section with a bitmap of 4 KiB granules.
    static func bitmap(
        entries: [UInt64] = [16], flags: UInt64 = 0, sectors: Int = 32, granules: Int = 8
    ) throws -> ParallelsExtension.Section {
        var bitmap = try ParallelsBitmap(
            ImageUUID(bytes: [
                0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, 1, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF,
            ]),
            diskBytes: 4 * 4096, granularity: 512)
        bitmap.granularity = granules * 512
        bitmap.entries = entries
        bitmap.flags = flags
        return bitmap.section(diskBytes: sectors * 512)
    }

    static func keeper(_ node: BlockNode) throws -> any BitmapCapable { try node.bitmapKeeper() }

    static func runs(_ store: TestStore) throws -> [Range<Int>] {
        let node = try ParallelsImage.open(store)
        defer { try? node.close() }
        return try keeper(node).bitmap(named: name).runs
    }

    @Test(
        arguments: [([16], [0..<4096, 8192..<12288]), ([0], []), ([1], [0..<16384])]
            as [([UInt64], [Range<Int>])])
    func bitsAreRead(_ entries: [UInt64], _ runs: [Range<Int>]) throws {
        let store = TestStore(["disk": try Self.image([Self.bitmap(entries: entries)])])
        let node = try ParallelsImage.open(store)
        let info = BitmapInfo(name: Self.name, granularity: 4096, isEnabled: true, isInconsistent: false)
        #expect(try Self.keeper(node).bitmaps() == [info])
        #expect(try node.format?.describe().specific?.map(\.key) == ["magic", "bitmaps"])
        try node.close()
        #expect(try Self.runs(store) == runs)
        #expect(try ParallelsImage.check(store).corruptions == 0)
    }

    @Test(.timeLimit(.minutes(1))) func writesAreRecorded() throws {
        let recorded = [0..<4096, 8192..<12288, 12288..<16384]
        try checkInterruption(
            of: ["disk": try Self.image([Self.bitmap()])],
            action: { store in
                let node = try ParallelsImage.open(store, readOnly: false)
                defer { try? node.close() }
                try node.write([UInt8(9)].span.bytes, at: 3 * 4096 + 7)
                try node.close()
            },
            verify: { store in
                let bytes = try ParallelsImage.firstBytes(store)
                let changed = try ParallelsImage.open(store).readBytes(at: 3 * 4096 + 7, count: 1) == [9]
                guard bytes == [0, 0, 3, 4] else { throw Mismatch("\(bytes)") }
                let node = try ParallelsImage.open(store)
                let bitmaps = try Self.keeper(node).bitmaps()
                try node.close()
                if let first = bitmaps.first, !first.isInconsistent {
                    // A bitmap that can be relied on knows of the change.
                    let marked = try Self.runs(store).contains { $0.contains(3 * 4096) }
                    guard marked || !changed else { throw Mismatch("not recorded") }
                }
                let writer = try ParallelsImage.open(store, readOnly: false)
                try writer.write([UInt8(9)].span.bytes, at: 3 * 4096 + 7)
                try writer.close()
                guard try ParallelsImage.isSound(store) else { throw Mismatch("damaged") }
                guard
                    try bitmaps.isEmpty || bitmaps[0].isInconsistent
                        || Self.runs(store).flatMap({ Array($0) })
                            == recorded.flatMap({ Array($0) })
                else { throw Mismatch("other bits") }
            })
    }

    @Test func commandsChangeBitmaps() throws {
        let store = TestStore(["disk": ParallelsImage.file([1, 0, 2])])
        let other = "ffffffff-0000-1111-2222-333333333333"
        var node = try ParallelsImage.open(store, readOnly: false)
        try node.changeBitmaps { keeper throws(BlockError) in
            try keeper.addBitmap(Self.name, granularity: 512, isEnabled: true)
            try keeper.addBitmap(other, granularity: nil, isEnabled: true)
        }
        for (name, granularity, isEnabled) in [
            ("mine", 512, true), (Self.name, 512, true), ("01234567-89ab-cdef-0123-456789abcdee", 256, true),
            ("01234567-89ab-cdef-0123-456789abcdee", 512, false), ("", 512, true),
        ] {
            #expect(throws: BlockError.self) {
                try node.changeBitmaps { keeper throws(BlockError) in
                    try keeper.addBitmap(name, granularity: granularity, isEnabled: isEnabled)
                }
            }
        }
        try node.write([UInt8(1)].span.bytes, at: 5000)
        try node.close()
        #expect(try Self.runs(store) == [4608..<5120])
        node = try ParallelsImage.open(store, readOnly: false)
        try node.changeBitmaps { keeper throws(BlockError) in
            try keeper.clearBitmap(Self.name)
            try keeper.mergeBitmap(try keeper.bitmap(named: other), into: Self.name)
            try keeper.removeBitmap(other)
        }
        try node.resize(to: 5 * 4096)
        try node.close()
        node = try ParallelsImage.open(store)
        #expect(try Self.keeper(node).bitmaps().map(\.name) == [Self.name])
        #expect(try Self.runs(store) == [0..<12288])
        #expect(try ParallelsImage.isSound(store))
    }

    @Test func bitmapsThatWouldNotFitAreRefused() throws {
        let store = TestStore(["disk": ParallelsImage.file(size: 1 << 30, [1])])
        let node = try ParallelsImage.open(store, readOnly: false)
        #expect(throws: BlockError.self) {
            for number in 0..<10 {
                try node.changeBitmaps { keeper throws(BlockError) in
                    try keeper.addBitmap(
                        "00000000-0000-0000-0000-00000000000\(number)", granularity: 512, isEnabled: true)
                }
            }
        }
        try node.close()
        #expect(try ParallelsImage.isSound(store))
        #expect(try Self.keeper(ParallelsImage.open(store)).bitmaps().count > 0)
    }

    /// What was not kept up to date says nothing, and goes with the next change.
    @Test(arguments: [[0, 0, 0, 0], ParallelsImage.inUse]) func outdatedBitmapsAreNotRead(_ mark: [UInt8])
        throws
    {
        var file = try Self.image([Self.bitmap()])
        file.write(mark, at: 44)
        let store = TestStore(["disk": file])
        let node = try ParallelsImage.open(store)
        #expect(try Self.keeper(node).bitmaps().first?.isInconsistent == true)
        #expect(throws: BlockError.self) { try Self.keeper(node).bitmap(named: Self.name) }
        try node.close()
        let writer = try ParallelsImage.open(store, readOnly: false)
        try writer.write([UInt8(9)].span.bytes, at: 0)
        try writer.close()
        #expect(try Self.keeper(ParallelsImage.open(store)).bitmaps().isEmpty)
        #expect(try ParallelsImage.isSound(store))
    }

    @Test func sectionsThatAreNotUnderstood() throws {
        let data = [UInt8]("something".utf8)
        let transit = ParallelsExtension.Section(magic: 77, flags: 2, data: data)
        let plain = ParallelsExtension.Section(magic: 78, data: data)
        let store = TestStore(["disk": try Self.image([plain, transit, Self.bitmap()])])
        let node = try ParallelsImage.open(store, readOnly: false)
        // Nothing is taken inside the file, which may be the unknown feature's.
        try node.write([UInt8](repeating: 9, count: 8192).span.bytes, at: 0)
        try node.discard(at: 2 * 4096, count: 4096)
        try node.close()
        let file = try #require(store["disk"])
        #expect(file.count > 5 * 4096)
        let sector = file.read(at: 56, count: 8).reversed().reduce(0) { $0 << 8 | Int($1) }
        #expect(sector >= 40)
        let cluster = file.read(at: sector * 512, count: 4096)
        let sections = try ParallelsExtension.parse(cluster.span.bytes)
        #expect(
            sections.first == transit
                && sections.map(\.magic) == [77, ParallelsExtension.Section.dirtyBitmap])
        #expect(try Self.runs(store) == [0..<12288])
        #expect(try ParallelsImage.check(store).corruptions == 0)
        // Clusters that a longer table would need may be the unknown feature's too.
        let again = try ParallelsImage.open(store, readOnly: false)
        #expect(throws: BlockError.self) { try again.resize(to: 100 << 20) }
        try again.close()
    }

    @Test(arguments: [1, 3] as [UInt64]) func necessarySectionsForbidChanges(_ flags: UInt64) throws {
        let section = ParallelsExtension.Section(magic: 77, flags: flags, data: [])
        let file = try Self.image([section])
        let store = TestStore(["disk": file])
        #expect(try ParallelsImage.firstBytes(store) == [0, 0, 3, 4])
        #expect(throws: BlockError.self) { try ParallelsImage.open(store, readOnly: false) }
        #expect(store["disk"] == file)
    }

    // MARK: Damage

    @Test func damagedExtensionsAreDroppedByRepairs() throws {
        var wrongSum = try Self.image([Self.bitmap()])
        wrongSum.write([1], at: 4096 + 100)
        var noMagic = try Self.image([Self.bitmap()])
        noMagic.write([1], at: 4096)
        let files = [
            wrongSum, noMagic, try Self.image([Self.bitmap()], sector: 24), try Self.image([], sector: 9),
            try Self.image([], sector: 4000), try Self.image([Self.bitmap(entries: [24])]),
            try Self.image([Self.bitmap(entries: [8])]), try Self.image([Self.bitmap(entries: [1 << 60])]),
            try Self.image([Self.bitmap(entries: [17])]),
            try Self.image([
                ParallelsExtension.Section(magic: ParallelsExtension.Section.dirtyBitmap, data: [1, 2, 3])
            ]),
        ]
        for (index, file) in files.enumerated() {
            let store = TestStore(["disk": file])
            #expect(try ParallelsImage.firstBytes(store) == [0, 0, 3, 4], "\(index)")
            #expect(try ParallelsImage.check(store).corruptions == 1, "\(index)")
            #expect(try ParallelsImage.check(store, .all).corruptionsFixed == 1, "\(index)")
            #expect(try ParallelsImage.isSound(store), "\(index)")
            #expect(store["disk"]?.read(at: 56, count: 8) == [UInt8](repeating: 0, count: 8), "\(index)")
        }
    }

    @Test func bitmapsThatDoNotFitTheDiskCannotBeRead() throws {
        for section in [
            try Self.bitmap(sectors: 40), try Self.bitmap(granules: 3), try Self.bitmap(entries: [0, 0]),
            try Self.bitmap(granules: 0),
        ] {
            let store = TestStore(["disk": try Self.image([section])])
            #expect(try Self.keeper(ParallelsImage.open(store)).bitmaps().first?.isInconsistent == true)
            #expect(throws: BlockError.self) { try Self.runs(store) }
            let node = try ParallelsImage.open(store, readOnly: false)
            try node.write([UInt8(9)].span.bytes, at: 0)
            try node.close()
            #expect(try ParallelsImage.isSound(store))
        }
    }
}
