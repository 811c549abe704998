import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Tables in memory: written to the file without a flush, and read again after another program's changes.
@Suite(.timeLimit(.minutes(1))) struct TableCacheTests {
    private let store = TestStore()
    private let bytes = [UInt8](repeating: 7, count: 65_536)
    private static let formats = ["qcow2", "qcow", "qed", "vdi", "vpc", "parallels", "vmdk"]

    private var opener: ImageOpener {
        ImageOpener(registry: store.registry(StandardFormats.all), policy: .anyFile)
    }

    private func create(_ format: String, size: Int = 4 << 20) throws {
        var options = try opener.createOptions(format: format, filename: "disk")
        try options.set(.size, to: String(size))
        try opener.create("disk", format: format, options: options)
    }

    private func open(_ format: String, readOnly: Bool = false) throws(BlockError) -> BlockNode {
        try opener.open("disk", format: format, settings: OpenSettings(readOnly: readOnly))
    }

    private var flushes: Int { store.log.count { if case .flush = $0 { true } else { false } } }

    /// What the tables refer to is in the file before the flush, and durable after it.
    @Test(arguments: formats + ["raw"]) func tablesReachTheFileBeforeTheFlush(format: String) throws {
        try create(format)
        let writer = try open(format)
        try writer.write(bytes.span.bytes, at: 1 << 20)
        try writer.flushToSystem()
        // The file as it is now, without what the writer still has in memory.
        let copy = TestStore(store.files)
        let reader = try ImageOpener(registry: copy.registry(StandardFormats.all), policy: .anyFile).open(
            "disk", format: format, settings: OpenSettings(readOnly: true))
        #expect(try reader.readBytes(at: 1 << 20, count: 65_536) == bytes)
        try reader.close()
        let before = flushes
        try writer.flush()
        #expect(flushes > before)
        if case .flush = store.log.last {} else { Issue.record("the last event is no flush") }
        // Changes go on, and nothing is lost by closing.
        try writer.write(bytes.span.bytes, at: 2 << 20)
        try writer.flushToSystem()
        try writer.write(bytes.span.bytes, at: 3 << 20)
        try writer.flushToSystem()
        try writer.close()
        let again = try open(format, readOnly: true)
        for offset in [1, 2, 3] { #expect(try again.readBytes(at: offset << 20, count: 65_536) == bytes) }
        try again.close()
    }

    /// The last parts are written and not flushed: qcow2's L2 table is the last thing in the log.
    @Test func theLastPartsAreNotFlushed() throws {
        try create("qcow2")
        let writer = try open("qcow2")
        try writer.write(bytes.span.bytes, at: 0)
        try writer.flushToSystem()
        guard case .write = store.log.last else {
            Issue.record("the last event is no write")
            return
        }
        let count = store.logCount
        try writer.flush()
        #expect(store.log[count...].allSatisfy { if case .flush = $0 { true } else { false } })
        try writer.close()
    }

    /// A failed write keeps the changes for the next flush.
    @Test func aFailureKeepsTheChanges() throws {
        try create("qcow2")
        let writer = try open("qcow2")
        try writer.write(bytes.span.bytes, at: 0)
        store.faults.arm(1, .deadFromThen)
        #expect(blockError { () throws(BlockError) in try writer.flushToSystem() }?.kind == .io)
        store.faults.disarm()
        try writer.close()
        let reader = try open("qcow2", readOnly: true)
        #expect(try reader.readBytes(at: 0, count: 65_536) == bytes)
        try reader.close()
    }

    // MARK: Reading again

    @Test(arguments: formats + ["vhdx"]) func anotherWritersChangesAreSeen(format: String) throws {
        try create(format)
        let reader = try open(format, readOnly: true)
        let zeroes = [UInt8](repeating: 0, count: 65_536)
        #expect(try reader.readBytes(at: 1 << 20, count: 65_536) == zeroes)
        let writer = try open(format)
        try writer.write(bytes.span.bytes, at: 1 << 20)
        try writer.close()
        try reader.invalidateCaches()
        #expect(try reader.readBytes(at: 1 << 20, count: 65_536) == bytes)
        try reader.close()
    }

    /// Without that call the old tables stay: the test above can fail.
    @Test func tablesAreKeptOtherwise() throws {
        try create("qcow2")
        let reader = try open("qcow2", readOnly: true)
        let zeroes = [UInt8](repeating: 0, count: 65_536)
        #expect(try reader.readBytes(at: 0, count: 65_536) == zeroes)
        let writer = try open("qcow2")
        try writer.write(bytes.span.bytes, at: 0)
        try writer.close()
        #expect(try reader.readBytes(at: 0, count: 65_536) == zeroes)
        try reader.close()
    }

    @Test func theSizeAndTheWholeChainFollow() throws {
        try create("qcow2")
        var options = try opener.createOptions(format: "qcow2", filename: "top")
        try options.set(.size, to: String(8 << 20))
        try options.set(.backingFile, to: "disk")
        try options.set(.backingFormat, to: "qcow2")
        try opener.create("top", format: "qcow2", options: options)
        let reader = try opener.open("top", settings: OpenSettings(readOnly: true))
        #expect(try reader.readBytes(at: 5 << 20, count: 512) == [UInt8](repeating: 0, count: 512))
        let base = try open("qcow2")
        try base.resize(to: 6 << 20)
        try base.write(bytes.span.bytes, at: 5 << 20)
        try base.close()
        let top = try opener.open("top", settings: OpenSettings(readOnly: false, withoutBacking: true))
        try top.resize(to: 9 << 20)
        try top.close()
        try reader.invalidateCaches()
        #expect(try reader.length() == 9 << 20)
        #expect(try reader.backing?.length() == 6 << 20)
        #expect(try reader.readBytes(at: 5 << 20, count: 65_536) == bytes)
        try reader.close()
    }

    /// An image that cannot be read any more leaves the tables as they were.
    @Test func aDamagedImageChangesNothing() throws {
        try create("qcow2")
        let writer = try open("qcow2")
        try writer.write(bytes.span.bytes, at: 0)
        try writer.close()
        let reader = try open("qcow2", readOnly: true)
        let whole = try #require(store["disk"])
        var damaged = whole
        damaged.write([0, 0, 0, 0], at: 0)
        store["disk"] = damaged
        let failed = blockError { () throws(BlockError) in try reader.invalidateCaches() }
        #expect(failed?.kind == .wrongFormat)
        store["disk"] = whole
        #expect(try reader.readBytes(at: 0, count: 65_536) == bytes)
        // Another cluster size: nothing of the old driver fits.
        var options = try opener.createOptions(format: "qcow2", filename: "disk")
        try options.set(.size, to: String(4 << 20))
        try options.set(name: "cluster_size", to: "4k")
        try opener.create("disk", format: "qcow2", options: options)
        #expect(blockError { () throws(BlockError) in try reader.invalidateCaches() }?.kind == .corrupt)
        try reader.close()
    }

    /// A snapshot stays the one that was selected.
    @Test func aSelectedSnapshotIsNotReplaced() throws {
        try create("qcow2")
        let writer = try open("qcow2")
        try writer.write(bytes.span.bytes, at: 0)
        try writer.createSnapshot(SnapshotInfo(id: "", name: "then"))
        try writer.writeZeroes(at: 0, count: 65_536)
        try writer.close()
        let reader = try open("qcow2", readOnly: true)
        try reader.format?.asSnapshotCapable?.selectSnapshot(id: nil, name: "then")
        #expect(blockError { () throws(BlockError) in try reader.invalidateCaches() }?.kind == .unsupported)
        #expect(try reader.readBytes(at: 0, count: 65_536) == bytes)
        try reader.close()
    }

    /// A writable image has no other writer: it is flushed and keeps what it has.
    @Test func aWritableImageIsFlushed() throws {
        try create("qcow2")
        let node = try open("qcow2")
        try node.write(bytes.span.bytes, at: 0)
        let before = flushes
        try node.invalidateCaches()
        #expect(flushes > before)
        #expect(try node.readBytes(at: 0, count: 65_536) == bytes)
        try node.close()
    }
}
