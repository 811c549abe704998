import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// External data files: who opens them, and that a raw one is the disk.
@Suite struct Qcow2DataFileTests {
    private static let size = 1 << 20

    private func make(_ options: [(name: String, value: String)]) throws -> TestStore {
        let store = TestStore()
        _ = try FormatConfiguration(Qcow2Driver.self, options: options, virtualSize: Self.size)
            .create(in: store)
        return store
    }

    private func opener(_ store: TestStore, _ policy: OpenPolicy = .anyFile) -> ImageOpener {
        ImageOpener(registry: store.registry([Qcow2Driver.self]), policy: policy)
    }

    private func refusal(_ store: TestStore, _ policy: OpenPolicy = .anyFile) -> BlockError? {
        do throws(BlockError) {
            let node = try opener(store, policy).open("disk", format: "qcow2")
            try node.close()
            return nil
        } catch { return error }
    }

    /// The name in the image becomes another of the same length.
    private func rename(_ store: TestStore, from old: String, to new: String) throws {
        var file = try #require(store["disk"])
        let start = file.read(at: 0, count: 4096)
        let position = try #require(
            (0..<4000).first { Array(start[$0..<$0 + old.utf8.count]) == Array(old.utf8) })
        file.write(Array(new.utf8), at: position)
        store["disk"] = file
    }

    @Test func theImageSaysWhatToOpenAndThePolicyWhether() throws {
        // A raw data file has clusters to read.
        let store = try make([("data_file", "data"), ("data_file_raw", "on")])
        #expect(refusal(store) == nil)
        #expect(refusal(store, .nothing)?.kind == .denied)
        let node = try opener(store, .nothing).open(
            "disk", format: "qcow2", settings: OpenSettings(metadataOnly: true))
        #expect(node.children.count == 1)
        let specific = try #require(try node.format?.describe().specific)
        #expect(specific.contains(InfoField("data-file", .text("data"))))
        #expect(specific.contains(InfoField("data-file-raw", .flag(true))))
        #expect(throws: BlockError.self) {
            let bytes = try node.readBytes(at: 0, count: 512)
            Issue.record("read \(bytes.count) bytes without the data file")
        }
    }

    @Test(arguments: [
        #"json:{"driver":"null-co"}"#, "null-co://              ", "nbd://localhost/secret  ",
    ])
    func aNameInAnImageIsThatOfAFile(_ name: String) throws {
        let plain = String(repeating: "d", count: name.utf8.count)
        let store = try make([("data_file", plain)])
        try rename(store, from: plain, to: name)
        #expect(refusal(store)?.kind == .notFound)
    }

    @Test func theImageIsNotItsOwnDataFile() throws {
        let store = try make([("data_file", "data")])
        try rename(store, from: "data", to: "disk")
        #expect(refusal(store)?.kind == .corrupt)
    }

    @Test func aMissingDataFileIsNamed() throws {
        let store = try make([("data_file", "data")])
        store["data"] = nil
        #expect(refusal(store)?.kind == .notFound)
        #expect(refusal(store)?.path == "disk")
    }

    @Test(arguments: ["off", "on"])
    func aRawDataFileIsTheDisk(subclusters: String) throws {
        let options = [
            (name: "data_file", value: "data"), (name: "data_file_raw", value: "on"),
            (name: "extended_l2", value: subclusters),
        ]
        let store = try make(options)
        var random = SeededRandom(seed: TestEffort.seed)
        let node = try opener(store).open(
            "disk", format: "qcow2", settings: OpenSettings(readOnly: false))
        for step in 0..<200 {
            let start = random.number(in: 0..<Self.size / 512) * 512
            let count = min(Self.size - start, random.number(in: 1..<400) * 512)
            switch random.number(in: 0..<5) {
            case 0: try node.discard(at: start, count: count)
            case 1: try node.writeZeroes(at: start, count: count)
            case 2: try node.writeZeroes(at: start, count: count, flags: [])
            default:
                let bytes = Pattern.bytes(stamp: step, at: start, count: count)
                try node.write(bytes.span.bytes, at: start)
            }
        }
        try node.resize(to: Self.size + 4096)
        let seen = try node.readBytes(at: 0, count: Self.size + 4096)
        try node.close()
        let file = try #require(store["data"])
        #expect(file.count == Self.size + 4096)
        #expect(file.read(at: 0, count: file.count) == seen)
    }

    @Test func snapshotsAreRefused() throws {
        let store = try make([("data_file", "data")])
        let node = try opener(store).open("disk", format: "qcow2", settings: OpenSettings(readOnly: false))
        let error = #expect(throws: BlockError.self) {
            try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
        }
        #expect(error?.kind == .unsupported)
        try node.close()
    }
}
