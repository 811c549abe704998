import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Files that end early, as incomplete downloads do: what is lost is an error, never zeroes.
@Suite struct CutFileTests {
    struct Kind: Sendable, CustomTestStringConvertible {
        var format: String
        var options: [CreateOptionKey: String] = [:]
        /// The file that is cut: the image's own, or another one that it names.
        var file = "disk"
        /// A sound file may end inside the last unit of this many bytes; 1 where it may not.
        var shortUnit = 1

        var testDescription: String { "\(format) \(options.values.sorted().joined(separator: ","))" }
    }

    static let kinds = [
        Kind(format: "qcow2", shortUnit: 65536),
        Kind(format: "qcow2", options: [.clusterSize: "4096"], shortUnit: 4096),
        Kind(format: "qcow2", options: [.preallocation: "metadata"], shortUnit: 65536),
        Kind(format: "qcow2", options: [.dataFile: "data"], file: "data", shortUnit: 65536),
        Kind(format: "qed"), Kind(format: "qcow"), Kind(format: "vdi"),
        Kind(format: "vdi", options: [.staticImage: "on"]),
        Kind(format: "vpc", options: [.forceSize: "on"]),
        Kind(format: "vpc", options: [.forceSize: "on", .subformat: "fixed"]),
        Kind(format: "vhdx", options: [.blockSize: "1M"]), Kind(format: "parallels"), Kind(format: "vmdk"),
        Kind(format: "vmdk", options: [.subformat: "monolithicFlat"], file: "disk-flat"),
        Kind(format: "vmdk", options: [.subformat: "twoGbMaxExtentSparse"], file: "disk-s001"),
    ]
    private static let diskBytes = 2 << 20
    private static let sector = 4096
    private static let contents = Pattern.bytes(stamp: 3, at: 0, count: diskBytes)

    private let store = TestStore()
    private var opener: ImageOpener { ImageOpener(registry: store.registry(StandardFormats.all)) }

    private func make(_ kind: Kind) throws {
        var options = try opener.createOptions(format: kind.format, filename: "disk")
        try options.set(.size, to: String(Self.diskBytes))
        for (key, value) in kind.options { try options.set(key, to: value) }
        try opener.create("disk", format: kind.format, options: options)
        let node = try open(kind, readOnly: false)
        try node.write(Self.contents.span.bytes, at: 0)
        try node.close()
    }

    private func open(_ kind: Kind, readOnly: Bool = true) throws(BlockError) -> BlockNode {
        try opener.open("disk", format: kind.format, settings: OpenSettings(readOnly: readOnly))
    }

    /// Lengths around every structure: the ends, and places throughout.
    private static func lengths(_ whole: Int) -> [Int] {
        let near = [1, 512, 513, 4096, 65536, 65537, 1 << 20].map { whole - $0 }
        let inside = (1..<8).map { whole * $0 / 8 } + [4096, 65536 * 4, 65536 * 5, 65536 * 5 + 4]
        return Set(near + inside).filter { $0 > 0 && $0 < whole }.sorted()
    }

    @Test(.timeLimit(.minutes(3)), arguments: kinds) func nothingLostReadsAsZeroes(_ kind: Kind) throws {
        try make(kind)
        let whole = try #require(store[kind.file])
        let image = store.files
        try check(kind, lost: 0)
        for length in Self.lengths(whole.count) {
            for (name, bytes) in image { store[name] = bytes }
            var cut = whole
            cut.resize(to: length)
            store[kind.file] = cut
            try check(kind, lost: whole.count - length)
            #expect(store[kind.file]?.count == length, "looking changed the file")
        }
    }

    /// What opens reads right, sector for sector, or not at all.
    private func check(_ kind: Kind, lost: Int) throws {
        let node: BlockNode
        do throws(BlockError) { node = try open(kind) } catch {
            #expect(lost > 0, "\(error.message)")
            return
        }
        defer { try? node.close() }
        var missing = 0
        var wrong = 0
        for offset in stride(from: 0, to: Self.diskBytes, by: Self.sector) {
            guard let bytes = try? node.readBytes(at: offset, count: Self.sector) else {
                missing += Self.sector
                continue
            }
            if bytes[...] != Self.contents[offset..<offset + Self.sector] { wrong += Self.sector }
        }
        if lost == 0 { #expect(missing == 0) }
        // Where nothing else is lost, a short last unit is legal, and reads as zeroes.
        let mayBeShort = missing == 0 && lost < kind.shortUnit
        #expect(wrong == 0 || mayBeShort, "\(lost) bytes cut, \(wrong) wrong, \(missing) missing")
        if missing > 0 { try checkLoss(kind, node, lost) }
    }

    private func checkLoss(_ kind: Kind, _ node: BlockNode, _ lost: Int) throws {
        let error = #expect(throws: BlockError.self) { try node.readBytes(at: 0, count: Self.diskBytes) }
        #expect(error?.message.contains("bytes are missing") == true, "\(error?.message ?? "")")
        var offset = 0
        while offset < Self.diskBytes {
            guard let run = try? node.status(at: offset, limit: Self.diskBytes - offset) else { break }
            #expect(!run.isZero, "\(lost) bytes cut: zero at \(offset)")
            offset += run.length
        }
        #expect(throws: BlockError.self, "\(lost) bytes cut: opened for writing") {
            try self.open(kind, readOnly: false)
        }
        let settings = OpenSettings(readOnly: true, forCheck: true)
        guard let checked = try? opener.open("disk", format: kind.format, settings: settings) else { return }
        defer { try? checked.close() }
        let loss = try? checked.findCut()
        let result = try (checked.format as? any Checkable)?.check(repair: .none) { _ in }
        #expect((result?.corruptions ?? 1) > 0 || loss != nil, "\(lost) bytes cut: nothing found")
    }

    // MARK: What is legal

    /// QEMU, too, lets a file end inside its last cluster.
    @Test func theLastClusterOfQcow2NeedNotBeWhole() throws {
        let kind = Kind(format: "qcow2")
        try make(kind)
        var image = try #require(store["disk"])
        image.resize(to: image.count - 5000)
        store["disk"] = image
        for readOnly in [true, false] {
            let node = try open(kind, readOnly: readOnly)
            let tail = try node.readBytes(at: Self.diskBytes - 5000, count: 5000)
            #expect(tail.allSatisfy { $0 == 0 })
            #expect(try node.findCut() == nil)
            try node.close()
        }
    }

    /// A raw data file is a raw disk: what it does not have is zero.
    @Test func aRawDataFileMayBeShort() throws {
        let kind = Kind(format: "qcow2", options: [.dataFile: "data", .dataFileRaw: "on"])
        try make(kind)
        store["data"]?.resize(to: 1 << 20)
        let node = try open(kind)
        #expect(try node.readBytes(at: 0, count: 1 << 20)[...] == Self.contents[..<(1 << 20)])
        #expect(try node.readBytes(at: 1 << 20, count: 1 << 20).allSatisfy { $0 == 0 })
        try node.close()
    }

    /// A file that another process makes longer is asked again.
    @Test func aFileThatGrowsIsReadOn() throws {
        let kind = Kind(format: "qcow2")
        try make(kind)
        let whole = try #require(store["disk"])
        store["disk"]?.resize(to: whole.count / 2)
        let node = try open(kind)
        #expect(throws: BlockError.self) { try node.readBytes(at: 0, count: Self.diskBytes) }
        store["disk"] = whole
        #expect(try node.readBytes(at: 0, count: Self.diskBytes) == Self.contents)
        try node.close()
    }

    // MARK: Writing

    private func isUnchanged(_ files: [String: SparseBytes]) -> Bool { store.files == files }

    /// Space behind the end that the tables refer to is not given to others, nor turned into zeroes.
    @Test(arguments: kinds) func aCutImageIsNotWrittenTo(_ kind: Kind) throws {
        try make(kind)
        let whole = try #require(store[kind.file])
        store[kind.file]?.resize(to: whole.count * 2 / 5)
        let before = store.files
        #expect(throws: BlockError.self, "\(whole.count)") { try self.open(kind, readOnly: false) }
        #expect(self.isUnchanged(before))
        guard let node = try? open(kind) else { return }
        #expect(throws: BlockError.self) { try node.reopen(readOnly: false) }
        try node.close()
        #expect(self.isUnchanged(before))
    }
}
