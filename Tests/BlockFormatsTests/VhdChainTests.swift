import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Differencing disks: parents by name and identity, and what changes them; and sizes that change.
@Suite struct VhdChainTests {
    static let block = 4096

    /// `disk` over `base`, and `other` with other bytes.
    static func chain() throws -> TestStore {
        let base = try VhdBytes("base", size: 8 * block, ["force_size": "on"])
        try base.fill([1, 1, 1, 1], unit: block)
        let other = try VhdBytes("other", size: 8 * block, ["force_size": "on"], in: base.store)
        try other.fill([2, 2, 2, 2, 2], unit: block)
        let options = ["backing_file": "base", "backing_fmt": "vpc", "block_size": "4096"]
        let image = try VhdBytes(size: 8 * block, options, in: base.store)
        let node = try image.open(readOnly: false)
        try node.write([UInt8](repeating: 9, count: 512).span.bytes, at: block)
        try node.close()
        return base.store
    }

    static func firstBytes(
        _ store: TestStore, options: [String: String] = [:], unit: Int = block
    ) throws -> [UInt8] {
        let node = try VhdBytes.open(store, options: options)
        defer { try? node.close() }
        return try VhdBytes.firstBytes(node, unit: unit)
    }

    @Test func theParentMustBeTheSame() throws {
        let store = try Self.chain()
        #expect(try Self.firstBytes(store) == [1, 9, 1, 1, 0, 0, 0, 0])
        store["base"] = store["other"]
        let error = try #require(blockError { () throws(BlockError) in try VhdBytes.open(store) })
        #expect(error.kind == .corrupt && error.message.contains("UUID"))
        #expect(throws: BlockError.self) {
            try VhdBytes.open(store, options: ["backing.file.filename": "other"])
        }
        let own = ["backing.driver": "raw", "backing.file.filename": "other"]
        #expect(try Self.firstBytes(store, options: own).count == 8)
        for name in ["base", "fixed"] {
            if name == "fixed" { _ = try VhdBytes(name, size: 4096, ["subformat": name], in: store) }
            #expect(throws: BlockError.self) { try VhdBytes.open(store, name, options: own) }
        }
    }

    @Test func parentsAreVHDFiles() throws {
        for (name, format) in [("base", "raw"), ("json:{}", "vpc"), ("nbd://host", "vpc")] {
            let store = try Self.chain()
            #expect(throws: BlockError.self) {
                try VhdBytes(
                    "new", size: 1 << 20, ["backing_file": name, "backing_fmt": format], in: store)
            }
            let node = try VhdBytes.open(store, readOnly: false)
            let driver = try #require(node.format as? any Rebasable)
            #expect(throws: BlockError.self) {
                try driver.changeBacking(to: BackingReference(filename: name, format: format))
            }
            try node.close()
            #expect(try Self.firstBytes(store) == [1, 9, 1, 1, 0, 0, 0, 0])
        }
    }

    // MARK: Names

    /// Platform and bytes of locators, the name in the header, and what comes of them.
    struct Names: Sendable {
        var locators: [String: [UInt8]]
        var name = ""
        var path: String?
    }

    private static func utf16(_ text: String) -> [UInt8] {
        text.utf16.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
    }

    static let names = [
        Names(locators: ["W2ru": utf16(".\\a\\b.vhd")], path: "a/b.vhd"),
        Names(locators: ["W2ru": utf16("..\\b.vhd"), "W2ku": utf16("C:\\x\\b.vhd")], path: "../b.vhd"),
        Names(locators: ["W2ku": utf16("C:\\x\\b.vhd")], name: "b.vhd", path: "b.vhd"),
        Names(locators: ["W2ku": utf16("C:\\x\\b.vhd")], path: "b.vhd"),
        Names(locators: ["W2ku": utf16("\\x\\b.vhd")], name: "c.vhd", path: "/x/b.vhd"),
        Names(locators: ["W2ku": utf16("\\\\server\\b.vhd")], name: "C:\\d\\c.vhd", path: "c.vhd"),
        Names(
            locators: ["MacX": Array("file://./a%20b%5c.vhd".utf8), "W2ru": utf16("x")], path: "a b\\.vhd"),
        Names(locators: ["MacX": Array("file://localhost/x/b.vhd".utf8)], name: "c", path: "/x/b.vhd"),
        Names(locators: ["MacX": Array("http://x/b.vhd".utf8)], path: nil),
        Names(locators: ["W2ru": utf16("json:{\"driver\":\"nbd\"}")], path: "./json:{\"driver\":\"nbd\"}"),
        Names(locators: ["W2ru": utf16("nbd:x")], path: "./nbd:x"),
        Names(locators: ["MacX": Array("file://nbd:x%".utf8)], path: "./nbd:x%"),
        Names(locators: [:], name: "b.vhd", path: "b.vhd"),
        Names(locators: ["W2ru": [0x41]], path: nil), Names(locators: [:], path: nil),
    ]

    @Test(arguments: names.indices) func namesOfManyKinds(_ index: Int) throws {
        let names = Self.names[index]
        let image = VhdBytes(try Self.chain())
        image.changeHeader([UInt8](repeating: 0, count: 512 + 192), at: 64)
        image.changeHeader(
            names.name.utf16.flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }, at: 64)
        var place = image.bytes.count
        for (number, locator) in names.locators.sorted(by: { $0.key < $1.key }).enumerated() {
            let fields =
                Array(locator.key.utf8) + ImageBytes.big(UInt32(512))
                + ImageBytes.big(UInt32(locator.value.count)) + [0, 0, 0, 0]
                + ImageBytes.big(UInt64(place))
            image.changeHeader(fields, at: 576 + number * 24)
            image.bytes.write(locator.value, at: place)
            place += 1024
        }
        // They lie where the footer was.
        let footer = image.bytes.read(at: 0, count: 512)
        image.bytes.write(footer, at: place)
        let node = try image.open(withoutBacking: true)
        #expect(node.format?.backing?.filename == names.path)
        if names.path == nil { #expect(throws: BlockError.self) { try image.open() } }
    }

    /// A locator's place is not to be believed when the file grows.
    @Test func aLocatorFarAway() throws {
        let image = VhdBytes(try Self.chain())
        image.changeHeader(ImageBytes.big(UInt64(1) << 59), at: 576 + 16)
        let length = image.bytes.count
        let node = try image.open(readOnly: false)
        try node.write([UInt8(5)].span.bytes, at: 5 * Self.block)
        try #require(node.format as? any Rebasable)
            .changeBacking(to: BackingReference(filename: "other", format: "vpc"))
        try node.close()
        #expect(image.bytes.count < length + 65536)
        #expect(try Self.firstBytes(image.store) == [2, 9, 2, 2, 2, 5, 0, 0])
    }

    // MARK: Rebasing

    struct Change: Sendable {
        var to: String?
        /// What the parent has in each block.
        var bytes: [UInt8]
    }

    static let changes = [
        Change(to: "other", bytes: [2, 2, 2, 2, 2, 0, 0, 0]),
        Change(to: nil, bytes: [0, 0, 0, 0, 0, 0, 0, 0]),
    ]

    /// The sectors of the chain's image over a parent with those blocks.
    private static func sectors(over parent: [UInt8]) -> [UInt8] {
        var result = parent.flatMap { [UInt8](repeating: $0, count: block / 512) }
        result[block / 512] = 9
        return result
    }

    @Test(.timeLimit(.minutes(3)), arguments: changes.indices)
    func changingTheParentIsStoppedAnywhere(_ index: Int) throws {
        let change = Self.changes[index]
        try checkInterruption(
            of: try Self.chain().files,
            action: { store in
                let node = try VhdBytes.open(store, readOnly: false)
                defer { try? node.close() }
                let reference = change.to.map { BackingReference(filename: $0, format: "vpc") }
                try #require(node.format as? any Rebasable).changeBacking(to: reference)
            },
            verify: { store in
                let bytes = try Self.firstBytes(store, unit: 512)
                let before = Self.sectors(over: [1, 1, 1, 1, 0, 0, 0, 0])
                guard [before, Self.sectors(over: change.bytes)].contains(bytes) else {
                    throw Mismatch("\(bytes)")
                }
                guard try VhdBytes.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
                let node = try VhdBytes.open(store, readOnly: false)
                try node.write([UInt8(8)].span.bytes, at: 7 * Self.block)
                try node.close()
                guard try Self.firstBytes(store, unit: 512)[...] == bytes.dropLast(8) + [8] + bytes.suffix(7)
                else { throw Mismatch("lost") }
            })
    }

    /// Others heed the bitmaps of dynamic disks.
    @Test func withoutAParentBlocksAreWhole() throws {
        let store = try Self.chain()
        let image = VhdBytes(store)
        let node = try image.open(readOnly: false)
        try #require(node.format as? any Rebasable).changeBacking(to: nil)
        try node.close()
        #expect(image.bytes.read(at: 60, count: 4) == [0, 0, 0, 3])
        let table = image.bytes.read(at: 512 + 20, count: 4).reduce(0) { $0 << 8 | Int($1) }
        let place = image.bytes.read(at: table + 4, count: 4).reduce(0) { $0 << 8 | Int($1) }
        #expect(image.bytes.read(at: place * 512, count: 1) == [0xFF])
        #expect(try VhdBytes.check(store) == VhdBytes.check(store, .all))
    }

    /// A dynamic disk's blocks are whole, whatever their bitmaps say.
    @Test func aDynamicDiskGetsAParent() throws {
        let store = try Self.chain()
        let image = try VhdBytes(
            "alone", size: 8 * Self.block, ["block_size": "4096", "force_size": "on"], in: store)
        try image.fill([0, 5], unit: Self.block)
        image.bytes.write([0x80], at: Int(image.entry(1)) * 512)
        let node = try image.open(readOnly: false)
        let driver = try #require(node.format as? any Rebasable)
        try driver.changeBacking(to: BackingReference(filename: "base", format: "vpc"))
        try node.close()
        let child = try image.open()
        #expect(child.format?.backing == BackingReference(filename: "base", format: "vpc"))
        let sectors = try VhdBytes.firstBytes(child, unit: 512)
        for (block, value) in [1, 5, 1].enumerated() {
            #expect(sectors[block * 8..<block * 8 + 8].allSatisfy { $0 == UInt8(value) })
        }
    }

    // MARK: Sizes

    static let sizes = [1, 7, 9, 12, 200, 1200]

    /// A longer table does not fit before the blocks any more, and takes the places of some.
    @Test(.timeLimit(.minutes(4)), arguments: sizes, [nil, "fixed", "base"])
    func changingTheSizeIsStoppedAnywhere(_ blocks: Int, _ kind: String?) throws {
        let values: [UInt8] = [1, 0, 3, 0, 0, 6, 7, 8]
        var options = ["block_size": "4096", "force_size": "on"]
        let store = try Self.chain()
        if kind == "fixed" { options["subformat"] = "fixed" }
        if kind == "base" { options["backing_file"] = "base" }
        if kind == "base" { options["backing_fmt"] = "vpc" }
        let image = try VhdBytes(size: 8 * Self.block, options, in: store)
        try image.fill(values, unit: Self.block)
        let shown: [UInt8] = kind == "base" ? [1, 1, 3, 1, 0, 6, 7, 8] : values
        let grown = shown.prefix(blocks) + [UInt8](repeating: 0, count: max(0, blocks - 8))
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try VhdBytes.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: blocks * Self.block)
            },
            verify: { store in
                let bytes = try Self.firstBytes(store)
                guard bytes == shown || bytes == Array(grown) else {
                    throw Mismatch("\(bytes.count): \(bytes.prefix(16))")
                }
                guard try VhdBytes.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
                let node = try VhdBytes.open(store, readOnly: false)
                try node.resize(to: 20 * Self.block)
                try node.write([UInt8](repeating: 7, count: 512).span.bytes, at: 19 * Self.block)
                try node.close()
                let after = try Self.firstBytes(store)[...]
                let kept = min(bytes.count, 19)
                guard after.count == 20, after.prefix(kept) == bytes.prefix(kept), after.last == 7,
                    after[kept..<19].allSatisfy({ $0 == 0 })
                else { throw Mismatch("then \(after)") }
                let result = try VhdBytes.check(store)
                guard result.corruptions == 0 else { throw Mismatch("\(result)") }
            })
    }

    /// Other descriptions behind the table make it go to the end of the file.
    @Test func aTableWithANeighbourMoves() throws {
        let image = VhdBytes(try Self.chain())
        let place = image.bytes.count - 512
        let name = Self.utf16(".\\base")
        let fields =
            Array("W2ru".utf8) + ImageBytes.big(UInt32(512)) + ImageBytes.big(UInt32(name.count))
            + [0, 0, 0, 0] + ImageBytes.big(UInt64(place))
        image.changeHeader([UInt8](repeating: 0, count: 192), at: 576)
        image.changeHeader(fields, at: 576)
        let footer = image.bytes.read(at: 0, count: 512)
        image.bytes.write(name + [UInt8](repeating: 0, count: 512 - name.count) + footer, at: place)
        let node = try image.open(readOnly: false)
        try node.resize(to: 4000 * Self.block)
        try node.write([UInt8(5)].span.bytes, at: 3999 * Self.block)
        try node.close()
        let bytes = try Self.firstBytes(image.store)
        #expect(bytes.count == 4000 && bytes.prefix(5) == [1, 9, 1, 1, 0] && bytes.last == 5)
        #expect(try VhdBytes.check(image.store).corruptions == 0)
    }
}
