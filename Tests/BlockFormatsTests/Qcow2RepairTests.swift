import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What a repair mends, what it leaves alone, and what it leaves behind.
@Suite struct Qcow2RepairTests {
    private static let copied = Qcow2Bytes.copied
    private let gauntlet = Gauntlet(formats: StandardFormats.all, format: "qcow2")

    private func store(_ image: Qcow2Bytes) -> TestStore { TestStore(["disk": image.bytes]) }

    private func open(_ store: TestStore, readOnly: Bool = true) throws(BlockError) -> BlockNode {
        try gauntlet.open(store, readOnly: readOnly)
    }

    private func check(_ store: TestStore, _ repair: RepairMode = .none) throws -> (CheckResult, [String]) {
        var lines: [String] = []
        let node = try gauntlet.open(store, readOnly: repair == .none, forCheck: true)
        let checkable = try #require(node.format as? any Checkable)
        let result = try checkable.check(repair: repair) { lines.append($0) }
        try node.close()
        return (result, lines)
    }

    private func expectSound(_ store: TestStore) throws {
        let (result, lines) = try check(store)
        #expect(result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0, "\(lines)")
    }

    /// What may be the lost place of an entry that was given up is freed by another repair only.
    private func freeLeaks(_ store: TestStore) throws {
        let (result, lines) = try check(store, .leaks)
        #expect(result.leaksFixed > 0 && result.leaks == 0, "\(lines)")
    }

    private func isDirty(_ store: TestStore) -> Bool {
        store["disk"]?.hasIncompatible(Qcow2Bytes.Incompatible.dirty) ?? true
    }

    private func write(_ store: TestStore, _ byte: UInt8, at offset: Int, _ count: Int) throws {
        let node = try open(store, readOnly: false)
        try node.write([UInt8](repeating: byte, count: count).span.bytes, at: offset)
        try node.close()
    }

    /// What a cluster of a snapshot begins with.
    private func byte(_ store: TestStore, ofSnapshot name: String, at offset: Int) throws -> UInt8 {
        let node = try open(store)
        defer { try? node.close() }
        try #require(node.format as? any SnapshotCapable).selectSnapshot(id: nil, name: name)
        return try node.readBytes(at: offset, count: 1)[0]
    }

    /// An image with a snapshot that shares both its clusters with the disk, taken by the driver.
    private func snapshotted(_ image: Qcow2Bytes = Qcow2Bytes()) throws -> TestStore {
        let store = store(image)
        let node = try open(store, readOnly: false)
        try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
        try node.close()
        return store
    }

    private func patch(_ store: TestStore, _ value: UInt64, at offset: Int, width: Int = 8) throws {
        var disk = try #require(store["disk"])
        disk.putBig(value, at: offset, bytes: width)
        store["disk"] = disk
    }

    private func number(_ store: TestStore, at offset: Int) throws -> Int {
        try #require(store["disk"]).big(at: offset) & Qcow2Bytes.offsetMask
    }

    /// Where the first snapshot's L2 table is.
    private func snapshotL2(_ store: TestStore) throws -> Int {
        let table = try number(store, at: Qcow2Bytes.Field.snapshotsOffset)
        return try number(store, at: try number(store, at: table))
    }

    private func refcountBlock(_ store: TestStore) throws -> Int {
        try number(store, at: try number(store, at: Qcow2Bytes.Field.refcountOffset))
    }

    // MARK: Refcounts and flags

    @Test("a repair of leaks does not let the disk write over what a snapshot has", arguments: [2, 3])
    func leaksOnly(version: Int) throws {
        let image = Qcow2Bytes(version: version)
        let store = try snapshotted(image)
        try patch(store, 1, at: try refcountBlock(store) + image.data / image.clusterSize * 2, width: 2)
        let (result, lines) = try check(store, .leaks)
        #expect(result.corruptions > 0 && !lines.contains { $0.contains("Repairing") }, "\(lines)")
        try write(store, 0x55, at: 0, 4096)
        #expect(try byte(store, ofSnapshot: "one", at: 0) == 0xa0)
    }

    @Test("where references cannot be counted, no entry is called the only one")
    func tooManyReferences() throws {
        // One bit counts one use; two guest clusters share a cluster of the file.
        var image = Qcow2Bytes(refcountOrder: 0)
        image.setL2(1, UInt64(image.data))
        image.setL2(0, UInt64(image.data))
        let store = store(image)
        let (_, lines) = try check(store, .all)
        #expect(!lines.contains { $0.hasPrefix("Repairing OFLAG_COPIED") }, "\(lines)")
        #expect(image.get64(image.l2) == UInt64(try number(store, at: image.l2)))
    }

    @Test("counts behind the end of the file go")
    func strayCounts() throws {
        var image = Qcow2Bytes()
        image.putRefcount(3, of: 100)
        let store = store(image)
        let (result, _) = try check(store, .all)
        #expect(result.leaksFixed == 1 && result.corruptions == 0)
        #expect(store["disk"]?.read(at: image.refcountBlock + 200, count: 2) == [0, 0])
        try expectSound(store)
    }

    // MARK: Entries

    @Test("what cannot be repaired leaves an image that can be written as before")
    func dirtyBitGoes() throws {
        var image = Qcow2Bytes()
        var place = ImageBytes.big(UInt64(1 << 40))
        place += ImageBytes.big(UInt64(1 << 16))
        image.setExtensions([(Qcow2Bytes.ExtensionType.encryption, place)])
        image.putRefcount(2, of: image.data / image.clusterSize)
        let store = store(image)
        try write(store, 1, at: 0, 512)
        let (result, _) = try check(store, .all)
        #expect(result.corruptions > 0 && !isDirty(store))
        try write(store, 2, at: 0, 512)
    }

    @Test("an entry of a snapshot that points nowhere is repaired, and its loss reported")
    func badEntryInSnapshot() throws {
        let image = Qcow2Bytes()
        let store = try snapshotted(image)
        // The disk gets a table of its own, so that the snapshot's is the old one.
        try write(store, 0x11, at: 0, 65536)
        try patch(store, 0xff00_0000_0000, at: try snapshotL2(store))
        #expect(try check(store).0.corruptions > 0)
        let (result, lines) = try check(store, .all)
        #expect(result.corruptions == 0 && result.corruptionsFixed > 0, "\(lines)")
        #expect(lines.contains { $0.hasPrefix("Lost: ") && $0.contains("0x0 of snapshot 'one'") }, "\(lines)")
        try freeLeaks(store)
        try expectSound(store)
        #expect(try byte(store, ofSnapshot: "one", at: 65536) == 0xa1)
        try delete(store, "one")
        try expectSound(store)
    }

    private func delete(_ store: TestStore, _ name: String) throws {
        let node = try open(store, readOnly: false)
        try node.deleteSnapshot(named: name)
        try node.close()
    }

    @Test("a damaged snapshot can be deleted", arguments: [2, 3], [0xff00_0000_0000, 0x5_0200, 0x1234_0000])
    func deletingDamaged(version: Int, entry: UInt64) throws {
        let image = Qcow2Bytes(version: version)
        let store = try snapshotted(image)
        try write(store, 0x11, at: 0, 65536)
        try patch(store, entry, at: try snapshotL2(store))
        try delete(store, "one")
        #expect(!isDirty(store) || version == 2)
        try expectSound(store)
        try write(store, 0x22, at: 65536, 65536)
        #expect(try open(store).readBytes(at: 0, count: 1) == [0x11])
        try expectSound(store)
    }

    @Test("a snapshot of version 3 with too little extra data is written anew", arguments: [0, 8])
    func extraData(size: Int) throws {
        var image = Qcow2Bytes()
        let table = image.addSnapshot()
        let tail = image.bytes.read(at: table + Qcow2Bytes.Snapshot.id, count: 16)
        image.put32(UInt32(size), at: table + Qcow2Bytes.Snapshot.extraSize)
        image.write(tail, at: table + Qcow2Bytes.Snapshot.extra + size)
        let store = store(image)
        let (found, findings) = try check(store)
        #expect(found.corruptions == 0 && findings == ["Snapshot 1 has less extra data than version 3 wants"])
        let (result, lines) = try check(store, .all)
        #expect(result.corruptions == 0 && result.corruptionsFixed == 1, "\(lines)")
        #expect(try check(store).1.isEmpty)
        try expectSound(store)
        let node = try open(store)
        #expect(try (node.format as? any SnapshotCapable)?.snapshots().map(\.name) == ["one"])
    }

    @Test("a snapshot whose table is nowhere goes, the others stay")
    func lostSnapshot() throws {
        var image = Qcow2Bytes()
        image.addSnapshot()
        let store = store(image)
        let node = try open(store, readOnly: false)
        try node.createSnapshot(SnapshotInfo(id: "", name: "two"))
        try node.close()
        try patch(store, 1 << 40, at: try number(store, at: Qcow2Bytes.Field.snapshotsOffset))
        let (result, lines) = try check(store, .all)
        #expect(result.corruptions == 0, "\(lines)")
        #expect(lines.contains { $0.contains("Removing snapshot 'one'") })
        try freeLeaks(store)
        try expectSound(store)
        #expect(try byte(store, ofSnapshot: "two", at: 0) == 0xa0)
    }

    @Test("a table that is the guest's data by mistake is not repaired")
    func dataIsNoTable() throws {
        var image = Qcow2Bytes()
        let table = image.addSnapshot()
        image.put64(UInt64(image.data), at: Int(image.get64(table)))
        let store = store(image)
        let (result, _) = try check(store, .all)
        #expect(result.corruptions > 0)
        #expect(try open(store).readBytes(at: 0, count: 65536) == [UInt8](repeating: 0xa0, count: 65536))
    }

    @Test("metadata in one place twice stays reported, whatever else was repaired", arguments: [false, true])
    func overlap(isAlone: Bool) throws {
        var image = Qcow2Bytes()
        image.put64(UInt64(image.l1), at: image.addSnapshot())
        if !isAlone { image.setL2(5, 1 << 40) }
        let store = store(image)
        for _ in 0..<2 {
            #expect(try check(store, .all).0.corruptions == 1)
            #expect(try check(store).0.corruptions == 1)
        }
    }

    @Test("an L2 table that is used twice is shared like one of a snapshot")
    func tableUsedTwice() throws {
        var image = Qcow2Bytes(virtualSize: 1 << 30)
        image.put64(UInt64(image.l2) | Self.copied, at: image.l1 + 8)
        let store = store(image)
        #expect(try check(store).0.corruptions > 0)
        #expect(try check(store, .all).0.corruptions == 0)
        try expectSound(store)
        try write(store, 0x77, at: 1 << 29, 512)
        #expect(try open(store).readBytes(at: 0, count: 1) == [0xa0])
        // What is left with one reference may be called so; it need not.
        #expect(try check(store).0.leaks == 0)
        #expect(try check(store, .all).0.corruptions == 0)
        try expectSound(store)
    }

    @Test("nobody's repair gives up what a person might save")
    func automaticRepair() throws {
        var image = Qcow2Bytes()
        image.put64(UInt64(image.l2 + 512) | Self.copied, at: image.l1)
        image.put64(Qcow2Bytes.Incompatible.dirty, at: Qcow2Bytes.Field.incompatible)
        let store = store(image)
        let error = #expect(throws: BlockError.self) { try open(store, readOnly: false) }
        #expect(error?.kind == .corrupt)
        #expect(store["disk"] == image.bytes)
        let (result, lines) = try check(store, .all)
        #expect(result.corruptions == 0 && lines.contains { $0.hasPrefix("Lost: ") })
        #expect(!isDirty(store))
        try freeLeaks(store)
        try expectSound(store)
        try write(store, 3, at: 0, 512)
    }

    @Test("a compressed cluster whose size reaches too far keeps its data")
    func compressedSize() throws {
        var image = Qcow2Bytes()
        let payload: [UInt8] = [0x4b, 0x04, 0x00]
        let offset = image.addCluster()
        image.setCompressed(0, payload, at: offset + 65000, sectors: 40)
        image.putRefcount(0, of: image.data / image.clusterSize)
        let store = store(image)
        let before = try? open(store).readBytes(at: 0, count: 1)
        #expect(try check(store).0.corruptions > 0)
        #expect(try check(store, .all).0.corruptions == 0)
        try expectSound(store)
        #expect((try? open(store).readBytes(at: 0, count: 1)) == before)
    }

    @Test("a repair that is stopped anywhere can be done again", .timeLimit(.minutes(2)), arguments: [2, 3])
    func interrupted(version: Int) throws {
        let image = Qcow2Bytes(version: version, clusterBits: 12)
        let store = try snapshotted(image)
        try write(store, 0x11, at: 0, 4096)
        try patch(store, 0xff00_0000_0000, at: try snapshotL2(store))
        try patch(store, 0, at: try refcountBlock(store) + 6 * 2, width: 2)
        if version == 3 {
            let table = try number(store, at: Qcow2Bytes.Field.snapshotsOffset)
            // Eight bytes of extra data, then "1" and "one".
            try patch(store, 8, at: table + Qcow2Bytes.Snapshot.extraSize, width: 4)
            try patch(store, 0x316f_6e65_0000_0000, at: table + Qcow2Bytes.Snapshot.extra + 8)
        }
        try checkInterruption(of: store.files) { store in
            _ = try check(store, .all)
        } verify: { store in
            let copy = TestStore(store.files)
            let (result, lines) = try check(copy, .all)
            guard result.corruptions == 0, result.checkErrors == 0 else { throw Mismatch("\(lines)") }
            _ = try check(copy, .leaks)
            let (again, findings) = try check(copy)
            guard again.corruptions == 0, again.leaks == 0 else { throw Mismatch("\(findings)") }
            let node = try open(copy)
            defer { try? node.close() }
            let bytes = try [0, 4096].map { offset in try node.readBytes(at: offset, count: 1)[0] }
            guard bytes == [0x11, 0xa1], try byte(copy, ofSnapshot: "one", at: 4096) == 0xa1 else {
                throw Mismatch("the data is gone")
            }
        }
    }
}
