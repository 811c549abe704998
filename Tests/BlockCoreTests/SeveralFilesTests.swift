import BlockCore
import BlockTestSupport
import Synchronization
import Testing

/// Formats whose images consist of several files.
@Suite struct SeveralFilesTests {
    private let store = TestStore()

    private func opener(_ policy: OpenPolicy = .anyFile) -> ImageOpener {
        ImageOpener(registry: store.registry([TwoPartFormat.self]), policy: policy)
    }

    private func addFile(_ name: String, _ contents: [UInt8]) throws {
        let disk = store.disk(name)
        try disk.write(contents.span.bytes, at: 0)
        disk.close()
    }

    private func addImage(_ name: String = "d/image", part: String = "part") throws {
        try addFile(name, Array("two:\(part)".utf8))
    }

    @Test func theFurtherFileIsAChildAndIsReadThroughTheMap() throws {
        try addImage()
        try addFile("d/part", [UInt8](repeating: 7, count: 512))
        let node = try opener().open("d/image", format: "two")
        #expect(node.children.map(\.filename) == ["d/image", "d/part"])
        #expect(node.childRoles == ["file", "data"])
        #expect(try node.readBytes(at: 0, count: 512) == [UInt8](repeating: 7, count: 512))
        #expect(try node.status(at: 0, limit: 512).file == "d/part")
        try node.close()
    }

    @Test func thePolicyIsAskedForIt() throws {
        try addImage()
        try addFile("d/part", [7])
        let asked = Mutex<[OpenPolicy.Request]>([])
        let policy = OpenPolicy { request in
            asked.withLock { $0.append(request) }
            return false
        }
        let error = blockError { () throws(BlockError) in
            try opener(policy).open("d/image", format: "two")
        }
        #expect(error?.kind == .denied)
        let request = try #require(asked.withLock { $0.first })
        #expect(request.role == .extent && request.statedName == "part" && request.image == "d/image")
        #expect(request.resolvedName == "d/part")
    }

    @Test func optionsReplaceItWithoutAsking() throws {
        try addImage()
        try addFile("other", [9])
        let options = try OptionTree.parse("driver=two,file.filename=d/image,data.filename=other")
        let node = try opener(.nothing).open(options: options)
        #expect(try node.readBytes(at: 0, count: 1) == [9])
    }

    @Test func infoOpensItNot() throws {
        try addImage()
        let node = try opener(.nothing).open(
            "d/image", format: "two", settings: OpenSettings(metadataOnly: true))
        #expect(node.children.count == 1)
    }

    @Test func anImageIsNotItsOwnPart() throws {
        try addImage(part: "image")
        let error = blockError { () throws(BlockError) in try opener().open("d/image", format: "two") }
        #expect(error?.kind == .corrupt)
    }

    @Test func aProtocolMayNeedNoFileName() throws {
        var entry = store.entry
        entry.name = "nameless"
        entry.needsFilename = false
        try addFile("nameless://", [5])
        let opener = ImageOpener(registry: DriverRegistry(formats: [], protocols: [store.entry, entry]))
        let node = try opener.open(options: try OptionTree.parse("driver=nameless"))
        #expect(try node.readBytes(at: 0, count: 1) == [5])
        let error = blockError { () throws(BlockError) in
            try opener.open(options: try OptionTree.parse("driver=file"))
        }
        #expect(error?.kind == .invalidArgument)
    }

    @Test func storageThatIsOpenAlreadyServes() throws {
        try addImage("image")
        try addFile("part", [3])
        let node = try opener().open(storage: store.disk("image"), filename: "elsewhere", format: "two")
        #expect(try node.readBytes(at: 0, count: 1) == [3])
        #expect(node.filename == "elsewhere")
    }
}

/// `two:NAME`: the 512 bytes of the disk are in the file NAME.
private final class TwoPartFormat: FormatDriver {
    static let name = "two"

    static func probe(_ header: RawSpan, filename: String) -> Int { 0 }

    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> TwoPartFormat {
        let text = try request.file.readBytes(at: 0, count: try request.file.length())
        let name = String(decoding: text.dropFirst(4), as: UTF8.self)
        _ = try request.openChild(name, role: "data", purpose: .extent, options: &options)
        return TwoPartFormat()
    }

    let virtualSize = 512
    let writeGranularity = 1
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: offset), length: limit, child: 1)
    }
    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        throw BlockError(.readOnly, "read-only")
    }
    func flush() throws(BlockError) {}
    func close() throws(BlockError) {}
    func describe() throws(BlockError) -> FormatInfo { FormatInfo() }
}
