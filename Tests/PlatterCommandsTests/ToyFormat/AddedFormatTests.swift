import BlockCore
import BlockFormats
import BlockJobs
import BlockTestSupport
import Testing

@testable import PlatterCommands

/// Adding a format takes its folder and one line: nothing else knows it, and everything works.
@Suite struct AddedFormatTests {
    private let store = TestStore()
    private let opener: ImageOpener

    init() {
        // The one line.
        let formats: [any FormatDriver.Type] = [ToyDriver.self] + StandardFormats.all
        opener = ImageOpener(registry: store.registry(formats))
    }

    private func create(_ name: String, _ format: String, _ given: [String: String]) throws {
        var options = try opener.createOptions(format: format, filename: name)
        for (key, value) in given { try options.set(name: key, to: value) }
        try opener.create(name, format: format, options: options)
    }

    @Test func itIsCreatedOpenedAndDescribed() throws {
        try create("disk", "toy", ["size": "64k", "toy_note": "hello"])
        let node = try opener.open("disk", settings: OpenSettings(readOnly: false))
        #expect(node.driverName == "toy")
        #expect(try node.length() == 65536)
        let info = try ImageInfo(node, opener).text
        #expect(info.contains("file format: toy\n") && info.contains("note: hello\n"), "\(info)")
        let help = CreateOptionReport.help("toy", declared: ToyDriver.createOptions, forFile: false)
        #expect(help.contains("toy_note=<str>") && help.contains("A few words"), "\(help)")
        try node.close()
        // What it cannot do, the node refuses in its name.
        let other = try opener.open("disk", settings: OpenSettings(readOnly: false))
        #expect(blockError { () throws(BlockError) in try other.resize(to: 1024) }?.kind == .unsupported)
        #expect(
            blockError { () throws(BlockError) in try other.createSnapshot(SnapshotInfo(id: "", name: "s")) }?
                .kind == .unsupported)
        try other.close()
    }

    /// To a format of the program's and back, and below one as its backing file.
    @Test func itIsConvertedAndBacks() throws {
        let bytes = Pattern.bytes(stamp: 3, at: 0, count: 65536)
        try create("disk", "toy", ["size": "64k"])
        let node = try opener.open("disk", settings: OpenSettings(readOnly: false))
        try node.write(bytes.span.bytes, at: 0)
        try create("copy", "qcow2", ["size": "64k"])
        let copy = try opener.open("copy", settings: OpenSettings(readOnly: false))
        try ConvertJob(sources: [node], target: copy).run(JobControl())
        #expect(try copy.readBytes(at: 0, count: 65536) == bytes)
        try create("back", "toy", ["size": "64k"])
        let back = try opener.open("back", settings: OpenSettings(readOnly: false))
        try ConvertJob(sources: [copy], target: back).run(JobControl())
        #expect(try back.readBytes(at: 0, count: 65536) == bytes)
        for open in [node, copy, back] { try open.close() }
        try create("top", "qcow2", ["size": "64k", "backing_file": "disk", "backing_fmt": "toy"])
        let top = try opener.open("top")
        #expect(try top.readBytes(at: 0, count: 65536) == bytes)
        #expect(top.chain.map(\.driverName) == ["qcow2", "toy"])
        try top.close()
    }

    /// An option of another format is an error, by its name and by its key.
    @Test func optionsOfOthersAreRefused() throws {
        var options = try opener.createOptions(format: "toy", filename: "disk")
        let byName = blockError { () throws(BlockError) in try options.set(name: "compat", to: "1.1") }
        #expect(byName?.message == "Invalid parameter 'compat'")
        let byKey = blockError { () throws(BlockError) in try options.set(.compat, to: "1.1") }
        #expect(byKey?.message == byName?.message && byKey?.kind == .invalidArgument)
        try options.set(.toyNote, to: nil)
        #expect(options[.toyNote] == nil && options.declares(.toyNote))
        let unlike = opener.registry.unknown("Unknown driver", "tay").hint
        #expect(unlike?.contains("toy") == true)
    }
}
