import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization
import Testing

/// How a format is found by the start and the end of a file, and what may not be written there.
@Suite struct ProbeTests {
    private let store = TestStore()
    private var opener: ImageOpener {
        ImageOpener(registry: store.registry([FakeFormat.self, TailFormat.self, RawDriver.self]))
    }

    private func addTail(_ name: String, count: Int = 4096, backing: String = "") {
        var bytes = [UInt8](repeating: 1, count: count - 512)
        bytes += TailFormat.magic + Array(backing.utf8)
        store[name] = SparseBytes(bytes + [UInt8](repeating: 0, count: count - bytes.count))
    }

    @Test(arguments: [512, 700, 4096]) func theEndTellsTheFormat(_ count: Int) throws {
        addTail("disk", count: count)
        #expect(try opener.open("disk").driverName == "tail")
    }

    @Test func startAndEndThatDisagreeAreNotBelieved() throws {
        try TestImages(store).create("disk", size: 4096)
        #expect(try opener.open("disk").driverName == "fake")
        let length = try #require(store["disk"]?.count)
        var file = try #require(store["disk"])
        file.write(TailFormat.magic, at: length)
        file.resize(to: length + 512)
        store["disk"] = file
        let error = blockError { () throws(BlockError) in try opener.open("disk") }
        #expect(error?.kind == .wrongFormat && error?.message.contains("name the format") == true)
        #expect(try opener.open("disk", format: "fake").driverName == "fake")
        #expect(try opener.open("disk", format: "tail").driverName == "tail")
    }

    /// A guest must not turn its own disk into another format's.
    @Test(arguments: [0, 100, 3072, 3584, 3590]) func aProbedRawDiskKeepsItsEnd(_ offset: Int) throws {
        store["disk"] = SparseBytes([UInt8](repeating: 1, count: 4096))
        let writable = OpenSettings(readOnly: false)
        let node = try opener.open("disk", settings: writable)
        var bytes = [UInt8](repeating: 2, count: 4096 - offset)
        let isFormat = offset <= 3584
        if isFormat { bytes.replaceSubrange(3584 - offset..<3584 - offset + 8, with: TailFormat.magic) }
        let error = blockError { () throws(BlockError) in try node.write(bytes.span.bytes, at: offset) }
        #expect((error?.kind == .denied) == isFormat, "\(String(describing: error))")
        try node.close()
        let named = try opener.open("disk", format: "raw", settings: writable)
        try named.write(bytes.span.bytes, at: offset)
        try named.close()
    }

    /// In two writes, neither of which has all of it.
    @Test func norInParts() throws {
        store["disk"] = SparseBytes([UInt8](repeating: 1, count: 4096))
        let node = try opener.open("disk", settings: OpenSettings(readOnly: false))
        try node.write(Array(TailFormat.magic[..<5]).span.bytes, at: 3584)
        #expect(throws: BlockError.self) {
            try node.write(Array(TailFormat.magic[5...]).span.bytes, at: 3589)
        }
        try node.close()
        #expect(try opener.open("disk").driverName == "raw")
    }

    @Test func theDriverLooksAtItsBackingFile() throws {
        store["base"] = SparseBytes([UInt8](repeating: 7, count: 4096))
        store["wrong"] = SparseBytes([UInt8](repeating: 7, count: 512))
        addTail("disk", backing: "base")
        #expect(try opener.open("disk").backing?.filename == "base")
        addTail("disk", backing: "wrong")
        let error = blockError { () throws(BlockError) in try opener.open("disk") }
        #expect(error?.kind == .corrupt)
        #expect(try opener.open("disk", settings: OpenSettings(withoutBacking: true)).backing == nil)
    }

    @Test func creatingAsksBeforeAndTellsAfter() throws {
        let said = Mutex<[String]>([])
        var rules = CreationRules()
        rules.willMake = { (name) throws(BlockError) in
            said.withLock { $0.append("will \(name)") }
            if name == "two" { throw BlockError(.invalidArgument, "no") }
        }
        rules.didMake = { name in said.withLock { $0.append("did \(name)") } }
        rules.note = { text in said.withLock { $0.append(text) } }
        let options = try opener.createOptions(format: "tail", filename: "one")
        #expect(throws: BlockError.self) {
            try opener.create("one", format: "tail", options: options, rules: rules)
        }
        #expect(said.withLock { $0 } == ["a note", "will one", "did one", "will two"])
        #expect(store["one"] != nil && store["two"] == nil)
    }
}

/// A read-only format that is known by its last sector; the name of a backing file follows the magic.
private final class TailFormat: Creatable, BackingChecking {
    static let name = "tail"
    static let magic = Array("TAILTAIL".utf8)
    static let createOptions: [CreateOption] = []

    let virtualSize: Int
    let backing: BackingReference?

    init(size: Int, backing: String) {
        virtualSize = size
        self.backing = backing.isEmpty ? nil : BackingReference(filename: backing, format: "raw")
    }

    static func probe(_ header: RawSpan, filename: String) -> Int { 0 }
    static func probe(tail: RawSpan, filename: String) -> Int {
        let start = tail.byteCount - 512
        return tail.part(start..<start + 8)?.hasSameBytes(as: magic.span.bytes) == true ? 100 : 0
    }

    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> TailFormat {
        let size = try request.file.length() - 512
        let tail = try request.file.readBytes(at: size, count: 512)
        return TailFormat(
            size: size, backing: String(decoding: tail[8...].prefix { $0 != 0 }, as: UTF8.self))
    }

    func checkBacking(_ backing: BlockNode) throws(BlockError) {
        if try backing.length() < 4096 { throw BlockError(.corrupt, "not the parent") }
    }

    /// Two files: itself, and `two`.
    static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        context.note("a note")
        try context.createFile(size: 512).close()
        try context.createFile(named: "two", size: 512).close()
    }

    var writeGranularity: Int { 1 }
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: offset), length: limit)
    }
    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        throw BlockError(.readOnly, "read-only")
    }
    func flush() throws(BlockError) {}
    func close() throws(BlockError) {}
    func describe() throws(BlockError) -> FormatInfo { FormatInfo() }
}
