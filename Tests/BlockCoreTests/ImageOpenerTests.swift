import BlockCore
import BlockTestSupport
import Synchronization
import Testing

@Suite struct ImageOpenerTests {
    private let images = TestImages()

    @Test func probingFindsTheFormat() throws {
        try images.create("disk", size: 4096)
        images.createRaw("plain", size: 1024)
        #expect(try images.open("disk").driverName == "fake")
        #expect(try images.open("plain").driverName == "raw")
        #expect(try images.open("disk", format: "raw").driverName == "raw")
        #expect(try images.open("file:plain").driverName == "raw")
    }

    @Test func unknownNamesAreRefused() throws {
        images.createRaw("plain", size: 1024)
        #expect(
            blockError { () throws(BlockError) in try images.open("plain", format: "nope") }?.kind
                == .unsupported)
        #expect(blockError { () throws(BlockError) in try images.open("nope:x") }?.kind == .unsupported)
        #expect(blockError { () throws(BlockError) in try images.open("missing") }?.kind == .notFound)
        #expect(
            blockError { () throws(BlockError) in try images.open("plain", format: "fake") }?.kind
                == .wrongFormat)
    }

    @Test func aNameWithANullByteIsRefused() throws {
        images.createRaw("plain", size: 1024)
        images.createRaw("plain\0.png", size: 1024)
        let error = blockError { () throws(BlockError) in try images.open("plain\0.png") }
        #expect(error?.kind == .invalidArgument)
    }

    @Test func optionsGoWhereTheyBelong() throws {
        images.createRaw("plain", size: 4096)
        let tree = try OptionTree.parse("driver=raw,file.driver=file,file.filename=plain,offset=512,size=1k")
        let node = try images.opener.open(options: tree)
        #expect(try node.length() == 1024)
        #expect(try node.readBytes(at: 0, count: 16) == Pattern.bytes(stamp: 1, at: 512, count: 16))
        let json = try images.open(
            #"json:{"driver":"raw","offset":512,"size":1024,"file":{"driver":"file","filename":"plain"}}"#)
        #expect(try json.readBytes(at: 0, count: 1024) == node.readBytes(at: 0, count: 1024))
        let bare = try images.opener.open(options: try OptionTree.parse("driver=file,filename=plain"))
        #expect(bare.driverName == "file")
    }

    @Test(arguments: [
        ("driver=raw,file.filename=plain,colour=red", "colour"),
        ("driver=raw,file.filename=plain,file.colour=red", "colour"),
        ("file.filename=plain,backing.file.filename=plain,x.y=1", "x.y"),
    ])
    func unknownOptionsAreNamed(_ text: String, _ key: String) throws {
        images.createRaw("plain", size: 4096)
        let tree = try OptionTree.parse(text)
        let error = blockError { () throws(BlockError) in try images.opener.open(options: tree) }
        #expect(error?.kind == .invalidArgument)
        #expect(error?.message.contains("'\(key)'") == true, "\(String(describing: error))")
    }

    @Test func theBackingFileMayBeReplacedByOptions() throws {
        images.createRaw("base", size: 4096)
        images.createRaw("other", size: 4096, stamp: 9)
        try images.create("disk", size: 4096, backing: "base")
        let tree = try OptionTree.parse("driver=fake,file.filename=disk,backing.file.filename=other")
        let node = try images.opener.open(options: tree)
        #expect(try node.readBytes(at: 0, count: 4096) == Pattern.bytes(stamp: 9, at: 0, count: 4096))
    }

    @Test func backingNamesAreRelativeToTheImage() throws {
        images.createRaw("dir/base", size: 4096)
        try images.create("dir/disk", size: 4096, backing: "base")
        #expect(try images.open("dir/disk").backing?.filename == "dir/base")
    }

    @Test func loopsAreRefused() throws {
        try images.create("self", size: 4096, backing: "self")
        #expect(blockError { () throws(BlockError) in try images.open("self") }?.kind == .corrupt)
        try images.create("a", size: 4096, backing: "b")
        try images.create("b", size: 4096, backing: "a")
        #expect(blockError { () throws(BlockError) in try images.open("a") }?.kind == .corrupt)
        let alone = try images.opener.open("a", settings: OpenSettings(withoutBacking: true))
        #expect(alone.backing == nil)
    }

    @Test func thePolicyIsAskedForEveryFile() throws {
        let asked = Mutex<[OpenPolicy.Request]>([])
        let policy = OpenPolicy { request in
            asked.withLock { $0.append(request) }
            return request.statedName != "secret"
        }
        let images = TestImages(images.store, policy: policy)
        images.createRaw("d/base", size: 4096)
        try images.create("d/middle", size: 4096, backing: "base")
        try images.create("d/top", size: 4096, backing: "middle")
        _ = try images.open("d/top")
        let requests = asked.withLock { $0 }
        #expect(requests.map(\.statedName) == ["middle", "base"])
        #expect(requests.map(\.resolvedName) == ["d/middle", "d/base"])
        #expect(requests.map(\.image) == ["d/top", "d/middle"])
        #expect(requests.allSatisfy { $0.role == .backing })
        images.createRaw("secret", size: 4096)
        try images.create("bad", size: 4096, backing: "secret")
        #expect(blockError { () throws(BlockError) in try images.open("bad") }?.kind == .denied)
    }

    @Test(arguments: ["../base", "/etc/passwd", "d/base", "json:{\"file.filename\":\"base\"}", "file:base"])
    func sameFolderPolicyRefuses(_ name: String) throws {
        let images = TestImages(images.store, policy: .sameFolder)
        images.createRaw("base", size: 4096)
        try images.create("disk", size: 4096, backing: name)
        #expect(blockError { () throws(BlockError) in try images.open("disk") }?.kind == .denied)
    }

    @Test func metadataOnlyOpensNothingElse() throws {
        let images = TestImages(images.store, policy: .nothing)
        try images.create("disk", size: 4096, backing: "missing")
        let node = try images.opener.open("disk", settings: OpenSettings(metadataOnly: true))
        #expect(node.format?.backing?.filename == "missing")
    }

    /// Every error on the way leaves no file open.
    @Test func errorsCloseEverything() throws {
        let counter = OpenCounter(images.store)
        let registry = DriverRegistry(formats: [FakeFormat.self], protocols: [counter.entry])
        let opener = ImageOpener(registry: registry)
        try images.create("disk", size: 4096, backing: "missing")
        try images.create("loop", size: 4096, backing: "loop")
        try images.create("over", size: 4096, backing: "disk")
        images.createRaw("noise", size: 4096)
        for name in ["disk", "loop", "over", "noise"] {
            #expect(blockError { () throws(BlockError) in try opener.open(name) } != nil)
        }
        let unknown = try OptionTree.parse("driver=fake,file.filename=disk,nope=1")
        #expect(blockError { () throws(BlockError) in try opener.open(options: unknown) } != nil)
        #expect(counter.opened.load(ordering: .relaxed) > 5)
        #expect(counter.opened.load(ordering: .relaxed) == counter.closed.load(ordering: .relaxed))
    }
}

/// Counts how many drivers were opened and closed.
private final class OpenCounter: Sendable {
    let opened = Atomic<Int>(0)
    let closed = Atomic<Int>(0)
    private let store: TestStore

    init(_ store: TestStore) { self.store = store }

    var entry: ProtocolEntry {
        ProtocolEntry(
            name: "file", schemes: ["file"],
            open: { (name, options, settings) throws(BlockError) -> any ProtocolDriver in
                let inner = try self.store.entry.open(name, &options, settings)
                self.opened.add(1, ordering: .relaxed)
                return CountedDisk(inner, self)
            })
    }

    private final class CountedDisk: ProtocolDriver {
        static let name = "file"
        private let inner: any ProtocolDriver
        private let counter: OpenCounter

        init(_ inner: any ProtocolDriver, _ counter: OpenCounter) {
            self.inner = inner
            self.counter = counter
        }

        var identity: String? { inner.identity }
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
        func close() {
            counter.closed.add(1, ordering: .relaxed)
            inner.close()
        }
    }
}
