import BlockCore
import BlockTestSupport
import Testing

/// Nodes with a filter driver: over a file, over a format, in the middle of a chain, on each other.
@Suite struct FilterNodeTests {
    private let images = TestImages()
    private let log = FilterLog()
    private let writing = OpenSettings(readOnly: false)

    private func counting(_ child: BlockNode, _ label: String, _ settings: OpenSettings) -> BlockNode {
        BlockNode(
            .filter(CountingFilter(over: child, label: label, log: log)), filename: child.filename,
            settings: settings)
    }

    /// Two filters, `a` on `b`, over a writable file of three sectors.
    private func pair(_ settings: OpenSettings = OpenSettings(readOnly: false)) -> BlockNode {
        images.createRaw("disk", size: 1536)
        let file = BlockNode(.storage(images.store.disk("disk")), filename: "disk", settings: writing)
        return counting(counting(file, "b", writing), "a", settings)
    }

    /// An opener that knows the filter by its name, over the same files.
    private var opener: ImageOpener {
        let known = images.opener.registry
        return ImageOpener(
            registry: DriverRegistry(
                formats: known.formats, filters: [CountingFilter.self], protocols: known.protocols))
    }

    private func open(_ options: String, readOnly: Bool = true) throws -> BlockNode {
        try opener.open(options: try OptionTree.parse(options), settings: OpenSettings(readOnly: readOnly))
    }

    private func log(of node: BlockNode) throws -> FilterLog {
        try #require(node.filter as? CountingFilter).log
    }

    // MARK: One call each

    @Test func eachOperationPassesOnce() throws {
        let node = pair()
        let bytes: [UInt8] = [1, 2, 3]
        let calls: [(String, () throws -> Void)] = [
            ("length", { _ = try node.length() }),
            ("read", { _ = try node.readBytes(at: 0, count: 3) }),
            ("extent", { _ = try node.layerExtent(at: 0, limit: 3) }),
            ("discard", { try node.discard(at: 0, count: 512) }),
            ("resize", { try node.resize(to: 2048) }), ("flush", { try node.flush() }),
            ("writeback", { node.startWriteback() }),
        ]
        for (name, call) in calls {
            try call()
            #expect(log.take() == ["a \(name)", "b \(name)"])
        }
        try node.write(bytes.span.bytes, at: 5)
        #expect(
            log.take() == [
                "a pwritev", "a write", "b pwritev", "b write", "b pwritev_done", "a pwritev_done",
            ]
        )
        try node.writeZeroes(at: 5, count: 2)
        #expect(log.take() == ["a pwritev_zero", "a zero", "b pwritev_zero", "b zero"])
        #expect(try node.readBytes(at: 5, count: 3) == [0, 0, 3])
        #expect(node.statistics.counts(of: .write).operations == 2)
    }

    @Test func reopeningAndClosingGoDownInOrder() throws {
        let node = pair()
        try node.write([1].span.bytes, at: 0)
        _ = log.take()
        try node.reopen(readOnly: true)
        #expect(
            log.take() == [
                "a flush", "b flush", "a will reopen", "b will reopen", "b did reopen", "a did reopen",
            ])
        #expect(node.isReadOnly && node.file?.isReadOnly == true && node.unfiltered.isReadOnly)
        #expect(
            blockError { () throws(BlockError) in try node.write([1].span.bytes, at: 0) }?.kind == .readOnly)
        try node.reopen(readOnly: false)
        _ = log.take()
        try node.write([7].span.bytes, at: 0)
        _ = log.take()
        try node.close()
        // What the upper one flushed, the lower one need not flush again.
        #expect(log.take() == ["a flush", "b flush", "a close", "b close"])
        try node.close()
        #expect(log.take().isEmpty)
        #expect(blockError { () throws(BlockError) in try node.readBytes(at: 0, count: 1) } != nil)
        #expect(images.store["disk"]?.read(at: 0, count: 1) == [7])
    }

    /// A node that cannot change its mode leaves all in the old one.
    @Test func reopeningIsAllOrNothing() throws {
        images.createRaw("disk", size: 512)
        let file = BlockNode(.storage(images.store.disk("disk")), filename: "disk", settings: writing)
        let node = BlockNode(.filter(StubbornFilter(over: file)), filename: "disk", settings: writing)
        #expect(blockError { () throws(BlockError) in try node.reopen(readOnly: true) }?.kind == .busy)
        #expect(!node.isReadOnly && !file.isReadOnly)
        try node.write([1].span.bytes, at: 0)
    }

    @Test func whatANodeDoesItDoesOverFiltersToo() throws {
        var settings = writing
        settings.detectZeroes = .on
        let node = pair(settings)
        try node.write([0, 0].span.bytes, at: 0)
        #expect(!log.take().contains("a write"))
        let reader = pair(OpenSettings())
        #expect(
            blockError { () throws(BlockError) in try reader.discard(at: 0, count: 1) }?.kind == .readOnly)
        #expect(log.take().isEmpty)
        let use = NodeUse(by: "job")
        try node.beginUse(use)
        let other = NodeUse(by: "other")
        #expect(blockError { () throws(BlockError) in try node.beginUse(other) }?.kind == .busy)
        #expect(blockError { () throws(BlockError) in try node.unfiltered.beginUse(other) }?.kind == .busy)
        node.endUse(use)
    }

    // MARK: Over formats

    @Test func aFilterOverAFormatShowsItsDisk() throws {
        images.createRaw("base", size: 8192)
        try images.create("top", size: 16384, backing: "base")
        let node = try open("driver=counting,file.driver=fake,file.file.filename=top", readOnly: false)
        let log = try log(of: node)
        #expect(node.driverName == "counting" && node.childRoles == ["file"] && node.format == nil)
        #expect(node.unfiltered.driverName == "fake" && node.filename == "top")
        #expect(try node.length() == 16384)
        #expect(node.chain.map(\.filename) == ["top", "base"])
        try node.write([9].span.bytes, at: 12288)
        _ = log.take()
        let read = try node.readBytes(at: 0, count: 16384)
        #expect(log.take() == ["counting read"])
        #expect(read[..<8192] == Pattern.bytes(stamp: 1, at: 0, count: 8192)[...] && read[12288] == 9)
        let below = try node.status(at: 0, limit: 4096)
        #expect(below.depth == 1 && below.file == "base" && below.isData)
        let own = try node.status(at: 12288, limit: 4096)
        #expect(own.depth == 0 && own.file == "top" && own.hostOffset ?? 0 > 0)
        #expect(try node.status(at: 8192, limit: 100).isPastBacking)
        #expect(log.take() == ["counting extent", "counting extent", "counting extent"])
        // Bounds are the disk's.
        #expect(
            blockError { () throws(BlockError) in try node.write([1].span.bytes, at: 16384) }?.kind == .io)
        #expect(blockError { () throws(BlockError) in try node.readBytes(at: 16384, count: 1) }?.kind == .io)
        #expect(node.identity == node.unfiltered.identity && node.place == node.unfiltered.place)
        #expect(node.ownFileIdentities.count == 1 && node.fileIdentities.count == 2)
        #expect(try node.plainPlace(at: 0, limit: 1) == nil && node.sharingStorage == nil)
        try node.close()
    }

    /// The events of a format reach a filter below it, also through one that does not listen.
    @Test func aFilterBelowAFormatHears() throws {
        try images.create("disk", size: 8192)
        let node = try open(
            "driver=fake,file.driver=counting,file.file.filename=disk", readOnly: false)
        let log = try log(of: try #require(node.file))
        _ = log.take()
        try node.write([9].span.bytes, at: 0)
        try node.flush()
        #expect(log.take().contains("counting flush_to_os"))
        _ = try node.readBytes(at: 0, count: 1)
        let calls = log.take()
        #expect(calls.filter { $0 == "counting read_aio" }.count == 1)
        #expect(calls.filter { $0 == "counting read" }.count == 1)
        #expect(try node.status(at: 0, limit: 1).file == "disk")
        #expect(try node.status(at: 0, limit: 1).hostOffset ?? 0 > 0)
        try node.close()
        let file = BlockNode(.storage(images.store.disk("disk")), filename: "disk")
        let silent = BlockNode(
            .filter(StubbornFilter(over: counting(file, "a", OpenSettings()))), filename: "disk")
        silent.emit(.l2Load)
        #expect(self.log.take() == ["a l2_load"])
    }

    @Test func aFilterInTheMiddleOfAChainIsNoLayer() throws {
        images.createRaw("base", size: 8192)
        try images.create("middle", size: 8192, backing: "base")
        let name = #"json:{"driver":"counting","file":{"driver":"fake","file":{"filename":"middle"}}}"#
        try images.create("top", size: 8192, backing: name)
        let node = try opener.open("top")
        let filter = try #require(node.backing)
        let log = try log(of: filter)
        #expect(node.chain.map(\.driverName) == ["fake", "counting", "raw"])
        #expect(try node.readBytes(at: 0, count: 8192) == Pattern.bytes(stamp: 1, at: 0, count: 8192))
        #expect(log.take().filter { $0 == "counting read" }.count == 2)
        let run = try node.status(at: 4096, limit: 10)
        #expect(run.depth == 2 && run.file == "base" && run.isData)
        #expect(try node.status(at: 0, limit: 1, above: filter).isPresent == false)
        // The chain below a filter is that of its format.
        let other = BlockNode(.storage(images.store.disk("base")), filename: "other")
        let old = filter.backing
        filter.backing = other
        #expect(filter.unfiltered.backing === other && node.chain.last === other)
        filter.backing = old
        try node.close()
        #expect(log.take().last == "counting close")
    }

    // MARK: Opening

    @Test func whatIsNoFilterIsRefused() throws {
        images.createRaw("disk", size: 512)
        func message(_ options: String) -> String? {
            let tree = try? OptionTree.parse(options)
            return blockError { () throws(BlockError) in try opener.open(options: tree ?? OptionTree()) }?
                .message
        }
        #expect(message("driver=counting") == "A block device must be specified for \"file\"")
        #expect(message("driver=counting,file.driver=nosuch") == "Unknown driver 'nosuch'")
        #expect(
            message("driver=counting,file.filename=disk,no=1")
                == "Block format 'counting' does not support the option 'no'")
        #expect(
            message("driver=counting,file.driver=fake,file.file.filename=disk")
                == "Not a fake image")
        #expect(message("driver=counting,node-name=n,file.node-name=n,file.filename=disk") != nil)
        #expect(message("driver=counting,node-name=n,file.filename=disk") == nil)
    }

    /// However they are mixed with formats, and along a chain, filters count as nested.
    @Test func filtersAreCounted() throws {
        images.createRaw("disk", size: 512)
        let many = String(repeating: "file.", count: 63)
        var options = OptionTree()
        for depth in 0..<63 { options[String(repeating: "file.", count: depth) + "driver"] = "counting" }
        options[many + "filename"] = "disk"
        #expect(try opener.open(options: options).unfiltered.storage != nil)
        for depth in 63..<66 { options[String(repeating: "file.", count: depth) + "driver"] = "counting" }
        options[many + "filename"] = nil
        options[many + "file.file.file.filename"] = "disk"
        let error = blockError { () throws(BlockError) in try opener.open(options: options) }
        #expect(error?.kind == .limit)
        try images.create("0", size: 4096)
        for index in 1...70 {
            let below = #"{"driver":"counting","file":{"driver":"fake","file":{"filename":"\#(index - 1)"}}}"#
            try images.create("\(index)", size: 4096, backing: "json:" + below)
        }
        #expect(try opener.open("20").readBytes(at: 0, count: 1) == [0])
        #expect(blockError { () throws(BlockError) in try opener.open("70") }?.kind == .limit)
    }

    @Test func aLoopThroughAFilterIsFound() throws {
        let name = #"json:{"driver":"counting","file":{"driver":"fake","file":{"filename":"disk"}}}"#
        try images.create("disk", size: 4096, backing: name)
        let error = blockError { () throws(BlockError) in try opener.open("disk") }
        #expect(error?.kind == .corrupt && error?.message.contains("infinite loop") == true)
    }
}

/// A filter that never becomes read-only, and hears nothing.
private final class StubbornFilter: FilterDriver {
    static let name = "stubborn"
    let child: BlockNode
    init(over child: BlockNode) { self.child = child }

    func didReopen(readOnly: Bool) throws(BlockError) {
        if readOnly { throw BlockError(.busy, "No") }
    }
}
