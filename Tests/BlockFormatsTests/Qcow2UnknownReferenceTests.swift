import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Where some structure cannot be followed, nothing is freed: what seems to be leaked may be what it refers
/// to.
@Suite struct Qcow2UnknownReferenceTests {
    private typealias Field = Qcow2Bytes.Field
    private typealias Snapshot = Qcow2Bytes.Snapshot

    private let gauntlet = Gauntlet(formats: StandardFormats.all, format: "qcow2")

    private func check(_ store: TestStore, _ repair: RepairMode = .none) throws -> (CheckResult, [String]) {
        var lines: [String] = []
        let node = try gauntlet.open(store, readOnly: repair == .none, forCheck: true)
        let checkable = try #require(node.format as? any Checkable)
        let result = try checkable.check(repair: repair) { lines.append($0) }
        try node.close()
        return (result, lines)
    }

    private func patch(_ store: TestStore, _ bytes: [UInt8], at offset: Int) throws {
        var disk = try #require(store["disk"])
        disk.write(bytes, at: offset)
        store["disk"] = disk
    }

    private func number(_ store: TestStore, at offset: Int, _ width: Int = 8) throws -> Int {
        try #require(store["disk"]).big(at: offset, bytes: width)
    }

    private func change(_ store: TestStore, _ body: (BlockNode) throws -> Void) throws {
        let node = try gauntlet.open(store, readOnly: false)
        defer { try? node.close() }
        try body(node)
        try node.close()
    }

    /// Two snapshots of a disk of four clusters; each state has bytes of its own in one cluster.
    private func image(_ version: Int, bitmap: Bool = false) throws -> TestStore {
        let store = TestStore(["disk": Qcow2Bytes(version: version).bytes])
        try change(store) { node in
            if bitmap {
                try node.changeBitmaps { keeper throws(BlockError) in
                    try keeper.addBitmap("b", granularity: 65536, isEnabled: true)
                }
            }
            for (index, name) in ["one", "two"].enumerated() {
                try node.createSnapshot(SnapshotInfo(id: "", name: name))
                let bytes = [UInt8](repeating: UInt8(0x11 * (index + 1)), count: 65536)
                try node.write(bytes.span.bytes, at: 0)
            }
        }
        return TestStore(store.files)
    }

    /// What the disk and its snapshots begin with.
    private func expectContents(_ store: TestStore, _ what: String) throws {
        let node = try gauntlet.open(store)
        #expect(try node.readBytes(at: 0, count: 1) == [0x22], "\(what)")
        let snapshots = try #require(node.format as? any SnapshotCapable)
        #expect(try snapshots.snapshots().map(\.name) == ["one", "two"], "\(what)")
        for (name, byte) in [("one", 0xa0), ("two", 0x11)] {
            try snapshots.selectSnapshot(id: nil, name: name)
            #expect(try node.readBytes(at: 0, count: 1) == [UInt8(byte)], "\(what): \(name)")
            #expect(try node.readBytes(at: 65536, count: 1) == [0xa1], "\(what): \(name)")
        }
        try node.close()
    }

    /// Where to damage the image, and with what.
    enum Place: String, CaseIterable, Sendable {
        case snapshotTable, snapshotCount, firstExtraSize, hugeExtraSize, firstNameSize, snapshotL1
        case snapshotL1Entries, activeL1Entry, activeL2Entry, snapshotL1Entry, refcountTable
    }

    private func damage(_ place: Place, _ store: TestStore) throws -> (offset: Int, bytes: [UInt8]) {
        let table = try number(store, at: Field.snapshotsOffset)
        let active = try number(store, at: Field.l1Offset)
        let l2 = try number(store, at: active) & Qcow2Bytes.offsetMask
        func wide(_ value: Int) -> [UInt8] { ImageBytes.big(value) }
        switch place {
        case .snapshotTable: return (Field.snapshotsOffset, wide(1 << 40))
        case .snapshotCount: return (Field.snapshotCount, ImageBytes.big(UInt32(65536)))
        case .firstExtraSize: return (table + Snapshot.extraSize, ImageBytes.big(UInt32(1048)))
        case .hugeExtraSize: return (table + Snapshot.extraSize, ImageBytes.big(UInt32.max))
        case .firstNameSize: return (table + Snapshot.nameSize, ImageBytes.big(UInt16(32)))
        case .snapshotL1:
            let field = table + Snapshot.l1Offset
            return (field, wide(try number(store, at: field) + 512))
        case .snapshotL1Entries: return (table + Snapshot.l1Entries, ImageBytes.big(UInt32(0)))
        case .activeL1Entry: return (active, wide(1 << 40))
        case .activeL2Entry: return (l2, wide(1 << 40))
        case .snapshotL1Entry: return (try number(store, at: table + Snapshot.l1Offset), wide(1 << 40))
        case .refcountTable: return (try number(store, at: Field.refcountOffset), wide(l2))
        }
    }

    @Test(
        "-r leaks changes nothing, and nothing is lost once the damage is undone", arguments: Place.allCases,
        [2, 3])
    func leaksOnly(place: Place, version: Int) throws {
        let store = try image(version)
        let (offset, bytes) = try damage(place, store)
        let before = try #require(store["disk"]).read(at: offset, count: bytes.count)
        try patch(store, bytes, at: offset)
        let damaged = store["disk"]
        #expect(try check(store).0.leaks > 0 || place == .refcountTable)
        let (_, lines) = try check(store, .leaks)
        #expect(store["disk"] == damaged, "\(lines)")
        try patch(store, before, at: offset)
        try expectContents(store, place.rawValue)
        #expect(try check(store).0 == check(try image(version)).0)
    }

    @Test(
        "-r all frees nothing either: what was lost can be found again", arguments: Place.allCases, [2, 3])
    func all(place: Place, version: Int) throws {
        let store = try image(version)
        let counts = try refcounts(store)
        let (offset, bytes) = try damage(place, store)
        let before = try #require(store["disk"]).read(at: offset, count: bytes.count)
        try patch(store, bytes, at: offset)
        let table = try number(store, at: Field.snapshotsOffset)
        let (_, lines) = try check(store, .all)
        let frees = lines.contains { $0.hasPrefix("Repairing cluster") && $0.hasSuffix("reference=0") }
        #expect(!frees, "\(lines)")
        for (cluster, count) in counts.enumerated() where count > 0 {
            #expect(try refcounts(store)[cluster] > 0, "cluster \(cluster) was freed: \(lines)")
        }
        // A snapshot without a table is taken off the list; the others stay.
        guard place != .refcountTable, try number(store, at: Field.snapshotsOffset) == table else { return }
        try patch(store, before, at: offset)
        try expectContents(store, place.rawValue)
    }

    /// The refcounts, by the specification.
    private func refcounts(_ store: TestStore) throws -> [Int] {
        let block = try number(store, at: try number(store, at: Field.refcountOffset))
        return try (0..<(store["disk"]?.count ?? 0) / 65536).map { try number(store, at: block + 2 * $0, 2) }
    }

    @Test("bits of bitmaps stay where the directory is damaged", arguments: [RepairMode.leaks, .all])
    func bitmapDirectory(mode: RepairMode) throws {
        let store = try image(3, bitmap: true)
        let counts = try refcounts(store)
        let directory = Qcow2Bytes.Extension.data + Qcow2Bytes.Extension.directoryOffset
        try patch(store, [0xff], at: Field.extensions + directory)
        let (result, lines) = try check(store, mode)
        #expect(result.leaks > 0 && result.leaksFixed == 0, "\(lines)")
        let after = try refcounts(store)
        #expect(counts.indices.allSatisfy { after[$0] >= counts[$0] })
    }

    @Test("the next repair frees what was given up, when nothing is unknown any more")
    func secondRepair() throws {
        let store = try image(3)
        let (offset, bytes) = try damage(.activeL1Entry, store)
        try patch(store, bytes, at: offset)
        let (first, lines) = try check(store, .all)
        #expect(first.corruptions == 0 && first.leaks > 0 && first.leaksFixed == 0, "\(lines)")
        #expect(lines.last == "Check again with -r leaks to free them")
        let (second, _) = try check(store, .leaks)
        #expect(second.leaks == 0 && second.leaksFixed == first.leaks)
        #expect(try check(store).0.leaks == 0)
    }

    // MARK: Extra data

    /// Gives an entry other extra data; the image is made anew for it.
    private func setExtra(_ store: TestStore, _ size: Int) throws {
        let table = try number(store, at: Field.snapshotsOffset)
        let disk = try #require(store["disk"])
        var entries: [UInt8] = []
        var position = table
        for index in 0..<2 {
            let old = try number(store, at: position + Snapshot.extraSize, 4)
            let names =
                try number(store, at: position + Snapshot.idSize, 2)
                + number(store, at: position + Snapshot.nameSize, 2)
            var fixed = disk.read(at: position, count: Snapshot.extra)
            var extra = disk.read(at: position + Snapshot.extra, count: old)
            let wanted = index == 0 ? size : old
            extra = Array(extra.prefix(wanted)) + [UInt8](repeating: 7, count: max(0, wanted - old))
            let field = ImageBytes.big(UInt32(wanted))
            fixed.replaceSubrange(Snapshot.extraSize..<Snapshot.extra, with: field)
            entries += fixed + extra + disk.read(at: position + Snapshot.extra + old, count: names)
            entries += [UInt8](repeating: 0, count: (8 - entries.count % 8) % 8)
            position += (Snapshot.extra + old + names + 7) / 8 * 8
        }
        try patch(store, entries + [UInt8](repeating: 0, count: 256), at: table)
    }

    @Test(
        "an entry with too much extra data is cut by -r all, and its snapshot stays", arguments: [2, 3],
        [1025, 1200, 40_000])
    func longExtraData(version: Int, size: Int) throws {
        let store = try image(version)
        try setExtra(store, size)
        try expectContents(store, "before")
        let (found, _) = try check(store)
        #expect(found.corruptions == 1 && found.leaks == 0 && found.checkErrors == 0)
        let damaged = store["disk"]
        _ = try check(store, .leaks)
        #expect(store["disk"] == damaged)
        let (result, lines) = try check(store, .all)
        #expect(result.corruptions == 0 && result.corruptionsFixed == 1 && result.leaks == 0, "\(lines)")
        #expect(
            try number(store, at: try number(store, at: Field.snapshotsOffset) + Snapshot.extraSize, 4)
                == 1024)
        try expectContents(store, "after")
        let (again, _) = try check(store)
        #expect(again.corruptions == 0 && again.leaks == 0)
    }

    @Test("version 3 gets complete entries from an upgrade", arguments: [0, 8, 15])
    func upgrade(size: Int) throws {
        let store = try image(2)
        try setExtra(store, size)
        #expect(try check(store).1.isEmpty)
        let node = try gauntlet.open(store, readOnly: false)
        var options = CreateOptions(Qcow2Driver.amendOptions)
        try options.set(name: "compat", to: "1.1")
        try node.amend(Amendment(options))
        try node.close()
        #expect(try number(store, at: Field.version, 4) == 3)
        #expect(
            try number(store, at: try number(store, at: Field.snapshotsOffset) + Snapshot.extraSize, 4) >= 16)
        #expect(try check(store).1.isEmpty)
        try expectContents(store, "upgraded")
    }

    @Test("a snapshot that records no size keeps that of the disk when this changes")
    func resize() throws {
        let store = try image(3)
        try setExtra(store, 0)
        try change(store) { try $0.resize(to: 1 << 30) }
        let table = try number(store, at: Field.snapshotsOffset)
        #expect(try number(store, at: table + Snapshot.extraSize, 4) >= 16)
        #expect(try number(store, at: table + Snapshot.diskSize) == 16 << 16)
        try expectContents(store, "resized")
    }
}
