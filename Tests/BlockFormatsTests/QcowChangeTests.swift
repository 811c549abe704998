import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Sizes, names, emptying and gaps of qcow images, stopped anywhere.
@Suite struct QcowChangeTests {
    private static func read(_ store: TestStore) throws -> [UInt8] {
        try QcowImage.contents(QcowImage.open(store))
    }

    private static func resize(_ store: TestStore, _ size: Int) throws {
        let node = try QcowImage.open(store, readOnly: false)
        do { try node.resize(to: size) } catch {
            try? node.close()
            throw error
        }
        try node.close()
    }

    /// Sizes: more entries in the table's place, a table that has to move, fewer tables, half a cluster.
    @Test(.timeLimit(.minutes(3)), arguments: [4 << 21, 16 << 21, 600 << 21, 3 << 20, 5120])
    func resizingIsStoppedAnywhere(_ size: Int) throws {
        let before = 8 << 20
        try checkInterruption(
            of: QcowImage.make(size: before).files, action: { store in try Self.resize(store, size) },
            verify: { store in
                let node = try QcowImage.open(store)
                let now = try node.length()
                guard now == size || now == before else { throw Mismatch("size \(now)") }
                let blocks = QcowImage.blocks.filter { $0 * QcowImage.cluster < now }
                for (block, value) in zip(QcowImage.blocks, QcowImage.values) where blocks.contains(block) {
                    guard try node.readBytes(at: block * QcowImage.cluster, count: 1) == [value] else {
                        throw Mismatch("block \(block) is lost")
                    }
                }
                let check = try QcowImage.check(store)
                guard check.corruptions == 0, check.checkErrors == 0 else { throw Mismatch("\(check)") }
            })
    }

    @Test(arguments: [16 << 21, 600 << 21, 5 << 20, 5120]) func resizingLeavesNoGaps(_ size: Int) throws {
        let store = try QcowImage.make(size: 8 << 20)
        try Self.resize(store, size)
        let check = try QcowImage.check(store)
        #expect(check.leaks == 0 && check.corruptions == 0, "\(check)")
    }

    /// What lay past the end of a disk that became smaller must not come back when it grows.
    @Test(arguments: [false, true]) func growingShowsZeroes(_ compressed: Bool) throws {
        let store = try QcowImage.make(size: 8 << 20)
        let node = try QcowImage.open(store, readOnly: false)
        let bytes = Pattern.bytes(stamp: 1, at: 8192, count: 4096)
        if compressed {
            try ImageWriting.writeCompressed(bytes, at: 8192, to: node)
        } else {
            try node.write(bytes.span.bytes, at: 8192)
        }
        try node.resize(to: 9216)
        try node.close()
        try Self.resize(store, 8 << 20)
        let again = try QcowImage.open(store)
        #expect(try again.readBytes(at: 8192, count: 1024) == Array(bytes[..<1024]))
        #expect(try again.readBytes(at: 9216, count: (8 << 20) - 9216).allSatisfy { $0 == 0 })
    }

    /// The guest sees whole sectors of a stored size; what is mapped behind them must not show later.
    @Test(arguments: [(2 << 20) + 0x81, (2 << 20) + 4096 + 0x81]) func sizesThatAreNotWholeSectors(
        _ size: Int
    ) throws {
        let store = try QcowImage.patched(UInt64(size), at: 24, in: QcowImage.make(compressed: false))
        let before = try QcowImage.open(store).length()
        #expect(before == size / 512 * 512)
        try Self.resize(store, 8 << 20)
        let rest = try QcowImage.open(store).readBytes(at: before, count: 1 << 20)
        #expect(rest.allSatisfy { $0 == 0 })
        #expect(try QcowImage.check(store).corruptions == 0)
    }

    /// A table that comes to where an old one was must not be taken for it.
    @Test func shrinkingAndGrowingInOneSession() throws {
        let store = try QcowImage.make(size: 1 << 20, compressed: false)
        let node = try QcowImage.open(store, readOnly: false)
        func write(_ value: UInt8, at offset: Int) throws {
            try node.write([UInt8](repeating: value, count: 4096).span.bytes, at: offset)
        }
        try node.resize(to: 8 << 20)
        try write(7, at: 4 << 20)
        try write(8, at: 5 << 20)
        try node.flush()
        try node.resize(to: 1 << 20)
        try node.resize(to: 8 << 20)
        try write(9, at: 4 << 20)
        try write(10, at: 6 << 20)
        try node.flush()
        #expect(try node.readBytes(at: 5 << 20, count: 1) == [0])
        try node.close()
        let check = try QcowImage.check(store)
        #expect(check.corruptions == 0 && check.leaks == 0, "\(check)")
        let again = try QcowImage.open(store)
        #expect(try [4, 5, 6].map { try again.readBytes(at: $0 << 20, count: 1)[0] } == [9, 0, 10])
    }

    /// Shrinking moves the last table into the gap of a lost one; data comes to lie where it was, and is
    /// written again.
    @Test func writingWhereATableWas() throws {
        let store = try QcowImage.make(size: 8 << 20, compressed: false)
        let node = try QcowImage.open(store, readOnly: false)
        try node.makeEmpty()
        let blocks = (0..<8).map { $0 * QcowImage.cluster }
        func write(_ value: UInt8, at offset: Int) throws {
            try node.write([UInt8](repeating: value, count: QcowImage.cluster).span.bytes, at: offset)
        }
        try write(1, at: 4 << 20)
        try write(2, at: blocks[0])
        try node.flush()
        try node.resize(to: 1 << 20)
        for value in UInt8(3)...4 { for block in blocks { try write(value, at: block) } }
        #expect(try blocks.allSatisfy { try node.readBytes(at: $0, count: 1) == [4] })
        try node.close()
        let check = try QcowImage.check(store)
        #expect(check.corruptions == 0 && check.leaks == 0, "\(check)")
    }

    /// A longer backing file must not show in what is new, whenever the power fails.
    @Test(.timeLimit(.minutes(2))) func growingHidesTheBackingFile() throws {
        var configuration = QcowTests.kind(backing: true)
        configuration.virtualSize = 3072 + 512
        configuration.backingSize = 20_000
        let store = TestStore()
        _ = try configuration.create(in: store)
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
                do { try node.resize(to: 16_384) } catch {
                    try? node.close()
                    throw error
                }
                try node.close()
            },
            verify: { store in
                let node = try configuration.open(in: store, settings: OpenSettings())
                let size = try node.length()
                let base = Pattern.bytes(stamp: -1, at: 0, count: 3584)
                guard try node.readBytes(at: 0, count: 3584) == base else { throw Mismatch("lost bytes") }
                let rest = try node.readBytes(at: 3584, count: size - 3584)
                guard rest.allSatisfy({ $0 == 0 }) else { throw Mismatch("the backing file shows") }
            })
    }

    static let names = ["b", String(repeating: "n", count: 464), String(repeating: "m", count: 1023), ""]

    private static func change(_ store: TestStore, to name: String) throws {
        let node = try QcowImage.open(store, readOnly: false)
        defer { try? node.close() }
        try #require(node.format as? any Rebasable).changeBacking(
            to: name.isEmpty ? nil : BackingReference(filename: name, format: nil))
    }

    @Test(.timeLimit(.minutes(2)), arguments: names, names) func theBackingNameIsOldOrNew(
        _ old: String, _ new: String
    ) throws {
        let store = try QcowImage.make()
        try Self.change(store, to: old)
        try checkName(store, old, new)
    }

    /// As QEMU lays images out: name and L1 table right behind the header.
    @Test(.timeLimit(.minutes(2)), arguments: names) func namesOfCrowdedImages(_ new: String) throws {
        var file = try #require(QcowImage.make()["disk"])
        let l1 = file.read(at: 4096, count: 32)
        file.write(ImageBytes.big(48) + [0, 0, 0, 4], at: 8)
        file.write(ImageBytes.big(56), at: 0x28)
        file.write(Array("base".utf8) + [0, 0, 0, 0] + l1, at: 48)
        try checkName(TestStore(["disk": file]), "base", new)
    }

    private func checkName(_ store: TestStore, _ old: String, _ new: String) throws {
        try checkInterruption(
            of: store.files, action: { store in try Self.change(store, to: new) },
            verify: { store in
                let now = try QcowImage.open(store).format?.backing?.filename ?? ""
                guard now == old || now == new else { throw Mismatch("named \(now)") }
                guard try Self.read(store) == QcowImage.values else { throw Mismatch("other bytes") }
                guard try QcowImage.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    @Test func emptyingIsStoppedAnywhere() throws {
        // The L1 table is at the end of the file, so that it has to come back.
        var file = try #require(QcowImage.make()["disk"])
        let place = 10 * 4096
        file.write(file.read(at: 4096, count: 32), at: place)
        file.write(ImageBytes.big(UInt64(place)), at: 0x28)
        let store = TestStore(["disk": file])
        #expect(try Self.read(store) == QcowImage.values)
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try QcowImage.open(store, readOnly: false)
                defer { try? node.close() }
                try node.makeEmpty()
            },
            verify: { store in
                let found = try Self.read(store)
                guard zip(found, QcowImage.values).allSatisfy({ $0 == 0 || $0 == $1 }) else {
                    throw Mismatch("\(found)")
                }
                guard try QcowImage.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
        let node = try QcowImage.open(store, readOnly: false)
        try node.makeEmpty()
        try node.close()
        #expect(try Self.read(store) == [0, 0, 0, 0, 0])
        #expect(try #require(store["disk"]).count == 4096 + 512)
        #expect(try QcowImage.check(store).leaks == 0)
    }

    /// Gaps are filled with the last clusters, whose bytes stay.
    @Test(.timeLimit(.minutes(2))) func leaksAreGivenBack() throws {
        let store = try QcowImage.make()
        let length = try #require(store["disk"]).count
        // Clusters 0 and 1 are forgotten.
        let damaged = try QcowImage.patched(
            0, at: 3 * 4096, in: QcowImage.patched(0, at: 3 * 4096 + 8, in: store))
        #expect(try QcowImage.check(damaged).leaks == 2)
        try checkInterruption(
            of: damaged.files, action: { store in _ = try QcowImage.check(store, .leaks) },
            verify: { store in
                guard try Self.read(store) == [0, 0, 3, 4, 5] else { throw Mismatch("other bytes") }
                guard try QcowImage.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
        let result = try QcowImage.check(damaged, .leaks)
        // The table and the compressed cluster at the end stay where they are.
        #expect(result.leaksFixed == 0 && result.leaks == 2)
        #expect(try #require(damaged["disk"]).count == length)
        let plain = try QcowImage.make(compressed: false)
        let holes = try QcowImage.patched(
            0, at: 3 * 4096, in: QcowImage.patched(0, at: 4096 + 8, in: plain))
        #expect(try QcowImage.check(holes).leaks == 3)
        #expect(try QcowImage.check(holes, .leaks).leaks == 0)
        #expect(try #require(holes["disk"]).count == 5 * 4096)
        #expect(try Self.read(holes) == [0, 2, 3, 0, 0])
    }

    @Test func aBackingFileOfAnotherFormatThanStatedIsRefused() throws {
        let store = try QcowImage.make()
        let opener = QcowImage.opener(store)
        var options = try opener.createOptions(format: "qcow", filename: "over")
        try options.set(.size, to: "65536")
        try options.set(.backingFile, to: "disk")
        try options.set(.backingFormat, to: "raw")
        #expect(throws: BlockError.self) { try opener.create("over", format: "qcow", options: options) }
        try options.set(.backingFormat, to: "qcow")
        try opener.create("over", format: "qcow", options: options)
        let node = try opener.open("over", settings: OpenSettings(readOnly: false))
        #expect(try node.readBytes(at: 4096, count: 1) == [2])
        let rebasable = try #require(node.format as? any Rebasable)
        #expect(throws: BlockError.self) {
            try rebasable.changeBacking(to: BackingReference(filename: "disk", format: "raw"))
        }
        try rebasable.changeBacking(to: BackingReference(filename: "missing", format: "raw"))
        try node.close()
    }
}
