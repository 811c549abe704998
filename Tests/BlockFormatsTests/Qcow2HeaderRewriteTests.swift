import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the header and the snapshot table said stays said when they are written again.
@Suite struct Qcow2HeaderRewriteTests {
    private let configuration = FormatConfiguration(
        Qcow2Driver.self, options: [("cluster_size", "4096"), ("compat", "0.10")], virtualSize: 1 << 20)

    private func open(
        _ store: TestStore, _ configuration: FormatConfiguration? = nil, readOnly: Bool = false
    ) throws -> BlockNode {
        try (configuration ?? self.configuration).open(
            in: store, settings: OpenSettings(readOnly: readOnly, withoutBacking: true))
    }

    private func snapshots(_ node: BlockNode) throws -> any SnapshotCapable {
        try #require(node.format as? any SnapshotCapable)
    }

    /// Old programs wrote snapshots without extra data, which has the disk's size.
    @Test func snapshotWithoutARecordedSize() throws {
        let store = TestStore()
        _ = try configuration.create(in: store)
        var node = try open(store)
        let data = Pattern.bytes(stamp: 1, at: 0, count: 4096)
        try node.write(data.span.bytes, at: 0)
        try snapshots(node).createSnapshot(SnapshotInfo(id: "", name: "one"))
        try node.close()
        var image = try #require(store["disk"])
        let table = image.big(at: Qcow2Bytes.Field.snapshotsOffset)
        typealias Snapshot = Qcow2Bytes.Snapshot
        let names = image.read(at: table + Snapshot.id, count: 4)
        image.putBig(0, at: table + Snapshot.extraSize, bytes: 4)
        image.write(names + [0, 0, 0, 0], at: table + Snapshot.extra)
        store["disk"] = image

        node = try open(store)
        try snapshots(node).createSnapshot(SnapshotInfo(id: "", name: "two"))
        try snapshots(node).applySnapshot("one")
        #expect(try node.length() == 1 << 20)
        #expect(try node.readBytes(at: 0, count: 4096) == data)
        try node.close()
    }

    /// A backing name need not be UTF-8; its length is what the header says.
    @Test func backingNameInAnotherEncoding() throws {
        let store = TestStore()
        store["base"] = SparseBytes(count: 4096)
        var withBacking = configuration
        withBacking.backingSize = 4096
        _ = try withBacking.create(in: store)
        var image = try #require(store["disk"])
        let place = image.big(at: Qcow2Bytes.Field.backingOffset)
        image.write([0x62, 0xe4, 0xe9, 0x65], at: place)
        store["disk"] = image
        let node = try open(store)
        try snapshots(node).createSnapshot(SnapshotInfo(id: "", name: "one"))
        try node.close()
        #expect(store["disk"]?.big(at: Qcow2Bytes.Field.backingSize, bytes: 4) == 4)
    }

    /// The old header stays whole until the new one is there, also where that one has shorter extensions.
    @Test(arguments: [4096, 512])
    func changingTheBackingFileIsAtomic(cluster: Int) throws {
        let small = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "\(cluster)")], virtualSize: 64 << 10)
        let long = String(repeating: "a", count: 350)
        let targets = [
            BackingReference(filename: "a", format: "raw"), BackingReference(filename: "bb", format: nil),
            BackingReference(filename: long, format: "raw"), BackingReference(filename: "ccc", format: nil),
        ]
        let store = TestStore()
        _ = try small.create(in: store)
        for target in targets {
            let files = store.files
            store.clearLog()
            let node = try open(store, small)
            let before = node.format?.backing
            try #require(node.format as? any Rebasable).changeBacking(to: target)
            let log = store.log
            try node.close()
            for position in 0...log.count {
                var replay = CrashReplay(files: files, log: log)
                replay.advance(to: position)
                let after = try open(TestStore(replay.afterKill), small, readOnly: true)
                #expect([before, target].contains(after.format?.backing))
                try after.close()
            }
        }
    }

    /// Where a backing name was, there is room for extensions once it is gone.
    @Test(arguments: [512, 4096]) func extensionsAfterTheBackingNameIsGone(cluster: Int) throws {
        let store = TestStore()
        store["base"] = SparseBytes(count: 4096)
        let size = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "\(cluster)")], virtualSize: 1 << 20,
            backingSize: 4096)
        _ = try size.create(in: store)
        var node = try open(store, size)
        try #require(node.format as? any Rebasable).changeBacking(to: nil)
        try node.close()
        #expect(store["disk"]?.big(at: Qcow2Bytes.Field.backingOffset) == 0)
        #expect(store["disk"]?.big(at: Qcow2Bytes.Field.backingSize, bytes: 4) == 0)
        node = try open(store, size)
        try node.changeBitmaps { keeper throws(BlockError) in
            try keeper.addBitmap("one", granularity: 65536, isEnabled: true)
        }
        try node.close()
        node = try open(store, size, readOnly: true)
        #expect(try node.bitmapKeeper().bitmaps().map(\.name) == ["one"])
        try node.close()
    }

    /// A disk without bytes has an L1 table without entries, which takes no cluster that could be leaked.
    @Test func snapshotsOfAnEmptyDisk() throws {
        let empty = FormatConfiguration(Qcow2Driver.self, virtualSize: 0)
        let store = TestStore()
        _ = try empty.create(in: store)
        let node = try open(store, empty)
        let checkable = try #require(node.format as? any Checkable)
        try snapshots(node).createSnapshot(SnapshotInfo(id: "", name: "empty"))
        #expect(try checkable.check(repair: .none) { _ in }.leaks == 0)
        try node.resize(to: 65536)
        try node.write([1].span.bytes, at: 0)
        try snapshots(node).applySnapshot("empty")
        #expect(try checkable.check(repair: .none) { _ in }.leaks == 0)
        try node.resize(to: 65536)
        #expect(try node.readBytes(at: 0, count: 1) == [0])
        try snapshots(node).deleteSnapshot(named: "empty")
        let result = try checkable.check(repair: .none) { _ in }
        #expect(result.leaks == 0 && result.corruptions == 0)
        try node.close()
    }

    /// Storage that keeps what was there before, as devices do.
    @Test func creatingOnADeviceWithOldContents() throws {
        let store = TestStore()
        store["disk"] = SparseBytes([UInt8](repeating: 0x5a, count: 1 << 20))
        let entry = ProtocolEntry(
            name: "file", createOptions: [CreateOption(.size, .size, help: "Length")],
            open: { (name, _, _) throws(BlockError) in StaleDisk(store.disk(name)) },
            create: { (_, _) throws(BlockError) in })
        let opener = ImageOpener(
            registry: DriverRegistry(formats: [Qcow2Driver.self, RawDriver.self], protocols: [entry]))
        var options = try opener.createOptions(format: "qcow2", filename: "disk")
        try options.set(.size, to: "8388608")
        try options.set(.clusterSize, to: "4096")
        try opener.create("disk", format: "qcow2", options: options)
        let node = try opener.open("disk", format: "qcow2", settings: OpenSettings(readOnly: false))
        #expect(try node.readBytes(at: 0, count: 4096).allSatisfy { $0 == 0 })
        let data: [UInt8] = [1, 2, 3]
        try node.write(data.span.bytes, at: 5 << 20)
        let zeroes = [UInt8](repeating: 0, count: 4096 - data.count)
        #expect(try node.readBytes(at: 5 << 20, count: 4096) == data + zeroes)
        let result = try #require(node.format as? any Checkable).check(repair: .none) { _ in }
        #expect(result.corruptions == 0 && result.leaks == 0)
        try node.close()
    }
}

/// A disk of fixed length whose contents are not zero at first.
private final class StaleDisk: ProtocolDriver {
    static let name = "file"
    private let inner: any ProtocolDriver

    init(_ inner: any ProtocolDriver) { self.inner = inner }

    var zeroInitialised: Bool { false }
    func length() throws(BlockError) -> Int { try inner.length() }
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try inner.read(into: &buffer, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) { try inner.write(bytes, at: offset) }
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try inner.writeZeroes(at: offset, count: count, flags: flags)
    }
    func discard(at offset: Int, count: Int) throws(BlockError) {}
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        if try length > self.length() { throw BlockError(.noSpace, "Cannot grow device files") }
    }
    func flush() throws(BlockError) {}
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: offset), length: limit)
    }
    func reopen(readOnly: Bool) throws(BlockError) {}
    func close() {}
}
