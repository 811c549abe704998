import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// A repair that gives an entry up does not cut off, move or overwrite what the entry may have referred to.
@Suite struct KeptLeaksTests {
    /// A format, how large its units are, and where the entry of the third one is.
    struct Subject: Sendable, CustomTestStringConvertible {
        var format: any Creatable.Type
        var unit: Int
        var options: [(name: String, value: String)] = []
        /// The entry's places, and what it becomes: a place behind the end of the file.
        var entries: @Sendable (SparseBytes) -> [Int]
        var wild: [UInt8]

        var testDescription: String { format.name }
    }

    private static func little(_ file: SparseBytes, _ offset: Int, _ width: Int) -> Int {
        Int(truncatingIfNeeded: ImageBytes(.little, file).number(at: offset, bytes: width))
    }

    private static func big(_ file: SparseBytes, _ offset: Int, _ width: Int) -> Int {
        Int(truncatingIfNeeded: ImageBytes(.big, file).number(at: offset, bytes: width))
    }

    static let subjects: [Subject] = [
        Subject(
            format: QedDriver.self, unit: 65536,
            entries: { [little($0, little($0, 40, 8), 8) + 16] }, wild: [0, 0, 0, 0, 0, 1, 0, 0]),
        Subject(
            format: QcowDriver.self, unit: 4096,
            entries: { [big($0, big($0, 40, 8), 8) + 16] }, wild: [0, 0, 1, 0, 0, 0, 0, 0]),
        Subject(
            format: ParallelsDriver.self, unit: 1 << 20, entries: { _ in [64 + 8] }, wild: [0, 0, 0, 0x40]),
        Subject(
            format: VhdDriver.self, unit: 2 << 20, entries: { [big($0, 512 + 16, 8) + 8] },
            wild: [0x40, 0, 0, 0]),
        Subject(
            format: VmdkDriver.self, unit: 65536,
            entries: { file in
                // The redundant directory and the one that counts, each with a table of its own.
                [48, 56].map { little(file, little(file, $0, 8) * 512, 4) * 512 + 8 }
            }, wild: [0, 0, 0, 0x40]),
    ]

    @Test(arguments: subjects) func lostBlock(_ subject: Subject) throws {
        let configuration = FormatConfiguration(
            subject.format, options: subject.options, virtualSize: 16 << 20)
        let store = TestStore()
        _ = try configuration.create(in: store)
        var node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        for index in 0..<3 {
            let bytes = [UInt8](repeating: UInt8(0x51 + index), count: subject.unit)
            try node.write(bytes.span.bytes, at: index * subject.unit)
        }
        try node.close()
        var disk = try #require(store["disk"])
        let entries = subject.entries(disk)
        let before = entries.map { disk.read(at: $0, count: subject.wild.count) }
        for entry in entries { disk.write(subject.wild, at: entry) }
        store["disk"] = disk
        let (result, lines) = try check(configuration, store, .all)
        #expect(result.corruptions == 0 && result.corruptionsFixed > 0, "\(lines)")
        #expect(result.leaks > 0 && result.leaksFixed == 0, "\(lines)")
        // Whoever knows where it was finds it there.
        let repaired = store.files
        disk = try #require(store["disk"])
        for (entry, bytes) in zip(entries, before) { disk.write(bytes, at: entry) }
        store["disk"] = disk
        node = try configuration.open(in: store, settings: OpenSettings())
        let third = try node.readBytes(at: 2 * subject.unit, count: subject.unit)
        #expect(third == [UInt8](repeating: 0x53, count: subject.unit))
        try node.close()
        // The next repair has nothing to give up, and frees it.
        let next = TestStore(repaired)
        #expect(try check(configuration, next, .leaks).0.leaksFixed > 0)
        #expect(try check(configuration, next, .none).0.leaks == 0)
    }

    private func check(
        _ configuration: FormatConfiguration, _ store: TestStore, _ repair: RepairMode
    ) throws -> (CheckResult, [String]) {
        let settings = OpenSettings(readOnly: repair == .none, forCheck: true)
        let node = try configuration.open(in: store, settings: settings)
        defer { try? node.close() }
        var lines: [String] = []
        let result = try #require(node.format as? any Checkable).check(repair: repair) { lines.append($0) }
        try node.close()
        return (result, lines)
    }
}
