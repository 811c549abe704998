import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What a check says of bitmaps, and what a repair leaves of them.
@Suite struct Qcow2BitmapRepairTests {
    private let image = BitmapImage(cluster: 4096, size: 1 << 20)
    private typealias Extension = Qcow2Bytes.Extension
    private typealias Bitmap = Qcow2Bytes.Bitmap
    /// The data of the first extension.
    private static let data = Qcow2Bytes.Field.extensions + Extension.data
    /// The size of an entry of the directory: its name, "every 512" or longer, fits into 16 bytes.
    private static let entryBytes = Bitmap.extra + 16

    private func number(_ store: TestStore, at offset: Int) throws -> Int {
        try #require(store["disk"]).big(at: offset)
    }

    private func overwrite(_ store: TestStore, _ bytes: [UInt8], at offset: Int) throws {
        var disk = try #require(store["disk"])
        disk.write(bytes, at: offset)
        store["disk"] = disk
    }

    /// Where the directory starts; this driver's extension is the first.
    private func directory(_ store: TestStore) throws -> Int {
        try number(store, at: Self.data + Extension.directoryOffset)
    }

    /// Two bitmaps with marks, of which the first has a damaged table entry.
    private func damaged() throws -> TestStore {
        let store = try image.create(bitmaps: [512, 4096])
        try image.write(store, [0..<10, 600_000..<600_010])
        try overwrite(store, [0x80], at: try number(store, at: try directory(store) + Bitmap.tableOffset))
        return TestStore(store.files)
    }

    @Test("a repair removes damaged bitmaps and keeps the others")
    func damagedBitmap() throws {
        let store = try damaged()
        let (found, lines) = try image.check(store)
        #expect(found.corruptions == 1 && found.leaks == 1)
        #expect(lines.first?.hasPrefix("ERROR bitmap 'every 512' is damaged: ") == true)
        #expect(try image.check(store, repair: .leaks).0.corruptions == 1)
        let (repaired, told) = try image.check(store, repair: .all)
        #expect(told.contains("Removing the damaged bitmap 'every 512'"))
        #expect(repaired.corruptions == 0 && repaired.corruptionsFixed == 1)
        try image.expectSound(store)
        #expect(try image.infos(store).map(\.name) == ["every 4096"])
        #expect(try image.runs(store) == [0..<4096, 598_016..<602_112])
    }

    @Test("bitmaps that share a table go, and the others stay", arguments: [1, 2])
    func sharedTable(_ refcount: UInt8) throws {
        let store = try image.create(bitmaps: [512, 4096, 65536])
        try image.write(store, [0..<10])
        let directory = try directory(store)
        let second = directory + Self.entryBytes + Bitmap.tableOffset
        let table = try #require(store["disk"]).read(at: second, count: 8)
        try overwrite(store, table, at: directory + Bitmap.tableOffset)
        let cluster = try number(store, at: second) / 4096
        let refcounts = try number(store, at: Qcow2Bytes.Field.refcountOffset)
        try overwrite(store, [0, refcount], at: try number(store, at: refcounts) + cluster * 2)
        let (found, lines) = try image.check(store)
        #expect(found.corruptions >= 2)
        #expect(lines.count { $0.hasSuffix("is damaged: its table is another one's too") } == 2)
        let (repaired, _) = try image.check(store, repair: .all)
        #expect(repaired.corruptions == 0 && repaired.leaks == 0)
        try image.expectSound(store)
        #expect(try image.infos(store).map(\.name) == ["every 65536"])
        try image.write(store, [70_000..<70_001])
        #expect(try image.runs(store, "every 65536") == [0..<131_072])
    }

    @Test("a damaged bitmap that is enabled becomes inconsistent with the first write")
    func damagedWhenWriting() throws {
        let store = try damaged()
        try image.write(store, [100_000..<100_001])
        #expect(try image.infos(store).map(\.isInconsistent) == [true, false])
        #expect(try image.runs(store, "every 4096") == [0..<4096, 98_304..<102_400, 598_016..<602_112])
    }

    @Test("a repair that is stopped anywhere leaves no bitmap that is wrong", .timeLimit(.minutes(2)))
    func interruptedRepair() throws {
        let store = try damaged()
        let reader = try image.open(store, readOnly: true)
        let data = try reader.readBytes(at: 0, count: 1 << 20)
        try reader.close()
        try checkInterruption(
            of: store.files, action: { store in try image.check(store, repair: .all) },
            verify: { store in
                let store = TestStore(store.files)
                let node = try image.open(store, readOnly: true)
                defer { try? node.close() }
                guard try node.readBytes(at: 0, count: 1 << 20) == data else {
                    throw Mismatch("data changed")
                }
                let keeper = try node.bitmapKeeper()
                for info in try keeper.bitmaps() where info.name == "every 4096" && !info.isInconsistent {
                    let runs = try keeper.bitmap(named: info.name).runs
                    guard runs == [0..<4096, 598_016..<602_112] else { throw Mismatch("\(runs)") }
                }
                try image.check(store, repair: .all)
                let (result, lines) = try image.check(store)
                guard result.corruptions == 0, result.leaks == 0 else { throw Mismatch("\(lines)") }
            })
    }

    // MARK: Out of date

    private func outOfDate() throws -> TestStore {
        let store = try image.create(bitmaps: [512, 4096])
        try image.write(store, [0..<10])
        try overwrite(store, ImageBytes.big(UInt64(0)), at: Qcow2Bytes.Field.autoclear)
        return TestStore(store.files)
    }

    @Test("bitmaps of an image that others wrote to are shown, and can only be removed")
    func withoutTheBit() throws {
        let store = try outOfDate()
        #expect(try image.infos(store).map(\.isInconsistent) == [true, true])
        try image.write(store, [50_000..<60_000])
        #expect(try image.infos(store).map(\.isInconsistent) == [true, true])
        let resized = try image.open(store, readOnly: false)
        try resized.resize(to: 2 << 20)
        try resized.resize(to: 1 << 20)
        try resized.close()
        try image.change(store) { keeper throws(BlockError) in
            try keeper.addBitmap("new", granularity: 4096, isEnabled: true)
            try keeper.removeBitmap("every 512")
        }
        try image.write(store, [4096..<4097])
        #expect(try image.infos(store).map(\.name) == ["every 4096", "new"])
        #expect(try image.infos(store).map(\.isInconsistent) == [true, false])
        #expect(try image.runs(store, "new") == [4096..<8192])
        // What the old directory referred to is not believed, so it is leaked.
        let (result, _) = try image.check(store)
        #expect(result.corruptions == 0 && result.leaks > 0)
        try image.change(store) { keeper throws(BlockError) in try keeper.removeBitmap("every 4096") }
        try image.check(store, repair: .leaks)
        try image.expectSound(store)
        #expect(try image.runs(store, "new") == [4096..<8192])
    }

    @Test("a repair removes bitmaps that are out of date", arguments: [RepairMode.leaks, .all])
    func repairWithoutTheBit(mode: RepairMode) throws {
        let store = try outOfDate()
        let (result, lines) = try image.check(store, repair: mode)
        #expect(lines.contains("Removing bitmaps that were not kept up to date"))
        #expect(result.leaks == 0 && result.leaksFixed > 0 && result.corruptions == 0)
        #expect(try image.infos(store).isEmpty)
        try image.expectSound(store)
    }

    // MARK: What others made

    /// Names are bytes; granularities that are not supported, and unknown data, are left as they are.
    @Test("what is not known here is kept as it is")
    func unknown() throws {
        let store = try image.create(bitmaps: [4096])
        let place = try directory(store)
        let disk = try #require(store["disk"])
        var entry = SparseBytes(disk.read(at: place, count: Bitmap.extra))
        let extra: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
        let odd: [UInt8] = [0xff, 0xfe, 0x61, 0x80]
        // A table of its own, behind the file.
        let end = disk.count / 4096 * 4096 + 4096
        entry.putBig(end, at: Bitmap.tableOffset)
        entry.putBig(0, at: Bitmap.flags, bytes: 4)
        entry.putBig(odd.count, at: Bitmap.nameSize, bytes: 2)
        entry.putBig(extra.count, at: Bitmap.extraSize, bytes: 4)
        entry.write(extra + odd + [0, 0, 0, 0], at: Bitmap.extra)
        let strange = entry.read(at: 0, count: entry.count)
        try overwrite(store, strange, at: place + Self.entryBytes)
        try overwrite(store, [UInt8](repeating: 0, count: 512), at: end)
        try overwrite(store, ImageBytes.big(UInt32(2)), at: Self.data + Extension.bitmapCount)
        let size = UInt64(Self.entryBytes + strange.count)
        try overwrite(store, ImageBytes.big(size), at: Self.data + Extension.directorySize)
        try image.check(store, repair: .all)
        try image.expectSound(store)
        #expect(try image.infos(store).map(\.isInconsistent) == [false, true])
        try image.write(store, [0..<1])
        try image.expectSound(store)
        let now = try directory(store)
        #expect(now != place)
        #expect(try #require(store["disk"]).read(at: now + Self.entryBytes, count: strange.count) == strange)
        let name = try #require(try image.infos(store).last).name
        try image.change(store) { keeper throws(BlockError) in try keeper.removeBitmap(name) }
        #expect(try image.infos(store).count == 1)
        try image.expectSound(store)
    }
}
