import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization
import Testing

/// The driver tells of its steps, so that breakpoints and injected errors find them.
@Suite struct Qcow2EventTests {
    private let store = TestStore()
    private let heard = HeardEvents()

    private func opener() -> ImageOpener {
        let entry = ProtocolEntry(
            name: "file", createOptions: store.entry.createOptions,
            open: { [store, heard] (name, _, _) throws(BlockError) in
                ListeningDisk(store.disk(name), heard)
            },
            create: store.entry.create)
        let registry = DriverRegistry(formats: [Qcow2Driver.self, RawDriver.self], protocols: [entry])
        return ImageOpener(registry: registry, secrets: LuksTests.secrets)
    }

    private func image(_ options: [String: String]) throws -> ImageOpener {
        let opener = opener()
        var values = try opener.createOptions(format: "qcow2", filename: "disk")
        for (name, value) in options { try values.set(name: name, to: value) }
        try opener.create("disk", format: "qcow2", options: values)
        return opener
    }

    private func open(
        _ opener: ImageOpener, secret: Bool = false, copyOnRead: Bool = false
    ) throws(BlockError) -> BlockNode {
        var options = OptionTree()
        if secret { options["encrypt.key-secret"] = "s0" }
        var settings = OpenSettings(readOnly: false)
        settings.copyOnRead = copyOnRead
        return try opener.open("disk", format: "qcow2", settings: settings, options: options)
    }

    private func events(of work: () throws -> Void) rethrows -> Set<MetadataEvent> {
        heard.clear()
        try work()
        return Set(heard.all)
    }

    @Test func encryptedDataAndStates() throws {
        let options = [
            "size": "1M", "extended_l2": "on", "encrypt.format": "luks", "encrypt.key-secret": "s0",
            "encrypt.iter-time": "0",
        ]
        let node = try open(try image(options), secret: true)
        defer { try? node.close() }
        let writing = try events { try node.write([1].span.bytes, at: 700) }
        #expect(writing.isSuperset(of: [.writeData, .copyWrite, .clusterAllocate]))
        #expect(!writing.contains(.clusterAllocateSpace))
        let reading = try events { _ = try node.readBytes(at: 700, count: 1) }
        #expect(reading == [.readData])
        let keeper = try #require(node.format as? any VMStateCapable)
        let saving = try events { try node.saveVMState([1].span.bytes, at: 0) }
        #expect(saving.contains(.stateSave))
        let loading = try events {
            var bytes: [UInt8] = [0]
            var elements = bytes.mutableSpan
            var span = elements.mutableBytes
            try keeper.loadVMState(into: &span, at: 0)
        }
        #expect(loading.contains(.stateLoad))
    }

    /// A new cluster of which a part is written, over nothing.
    @Test func spaceOfACluster() throws {
        let node = try open(try image(["size": "1M"]))
        defer { try? node.close() }
        let part = [UInt8](repeating: 1, count: 512)
        let first = try events { try node.write(part.span.bytes, at: 0) }
        #expect(first.isSuperset(of: [.clusterAllocate, .clusterAllocateSpace]))
        let again = try events { try node.write(part.span.bytes, at: 512) }
        #expect(!again.contains(.clusterAllocateSpace))
    }

    @Test func smallerDisks() throws {
        let node = try open(try image(["size": "1M", "cluster_size": "512"]))
        defer { try? node.close() }
        try node.write([1].span.bytes, at: 900_000)
        let shrinking = try events { try node.resize(to: 65536) }
        #expect(shrinking.isSuperset(of: [.l1Update, .l1ShrinkWrite, .l1ShrinkFree, .clusterFree]))
        let growing = try events { try node.resize(to: 64 << 20) }
        #expect(growing.isSuperset(of: [.l1GrowAllocate, .l1GrowWrite, .l1GrowActivate]))
    }

    @Test func largerRefcountTables() throws {
        let options = ["size": "64M", "cluster_size": "512", "refcount_bits": "64"]
        let node = try open(try image(options))
        defer { try? node.close() }
        let writing = try events {
            let bytes = [UInt8](repeating: 1, count: 4 << 20)
            try node.write(bytes.span.bytes, at: 0)
            try node.flush()
        }
        #expect(
            writing.isSuperset(of: [
                .refcountBlockAllocate, .refcountBlockWrite, .refcountTableGrow, .refcountGrowWriteBlocks,
                .refcountGrowWriteTable, .refcountGrowSwitch,
            ]))
        let more = try events {
            try node.write([UInt8](repeating: 1, count: 1 << 16).span.bytes, at: 8 << 20)
            try node.flush()
        }
        #expect(more.isSuperset(of: [.refcountBlockWrite, .refcountBlockHookup, .refcountTableUpdate]))
    }

    @Test func copyOnRead() throws {
        store["base"] = SparseBytes([UInt8](repeating: 7, count: 65536))
        let options = ["size": "64k", "backing_file": "base", "backing_fmt": "raw"]
        let node = try open(try image(options), copyOnRead: true)
        defer { try? node.close() }
        let reading = try events {
            let bytes = try node.readBytes(at: 0, count: 1)
            #expect(bytes == [7])
        }
        #expect(reading.isSuperset(of: [.readBacking, .copyOnReadWrite, .writeData]))
    }
}

/// What listeners of one test heard. Thread-safe.
private final class HeardEvents: Sendable {
    private let events = Mutex<[MetadataEvent]>([])
    var all: [MetadataEvent] { events.withLock { $0 } }
    func clear() { events.withLock { $0 = [] } }
    func note(_ event: MetadataEvent) { events.withLock { $0.append(event) } }
}

/// A disk that remembers which steps it was told of.
private final class ListeningDisk: MetadataEventListener {
    static let name = "file"
    private let inner: any ProtocolDriver
    private let heard: HeardEvents

    init(_ inner: any ProtocolDriver, _ heard: HeardEvents) { (self.inner, self.heard) = (inner, heard) }

    func hear(_ event: MetadataEvent) { heard.note(event) }
    var zeroInitialised: Bool { inner.zeroInitialised }
    func length() throws(BlockError) -> Int { try inner.length() }
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try inner.read(into: &buffer, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) { try inner.write(bytes, at: offset) }
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try inner.writeZeroes(at: offset, count: count, flags: flags)
    }
    func discard(at offset: Int, count: Int) throws(BlockError) {
        try inner.discard(at: offset, count: count)
    }
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try inner.truncate(to: length, preallocation: preallocation)
    }
    func flush() throws(BlockError) { try inner.flush() }
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try inner.extent(at: offset, limit: limit)
    }
    func reopen(readOnly: Bool) throws(BlockError) { try inner.reopen(readOnly: readOnly) }
    func close() { inner.close() }
}
