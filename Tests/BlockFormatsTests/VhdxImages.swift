import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// Small VHDX images whose structures tests change by hand. Blocks of 1 MiB; the log is at 1 MiB, the BAT at
/// 2, the metadata at 3 and the first block at 4 MiB.
enum VhdxImages {
    static let unit = 1 << 20
    static let bat = 2 * unit
    static let items = 3 * unit + (64 << 10)
    static let data = 4 * unit

    static func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([VhdxDriver.self, RawDriver.self]))
    }

    static func open(
        _ store: TestStore, _ name: String = "disk", readOnly: Bool = true, forCheck: Bool = false,
        _ options: [String: String] = [:]
    ) throws(BlockError) -> BlockNode {
        var tree = OptionTree()
        for (key, value) in options { tree[key] = value }
        return try opener(store).open(
            name, settings: OpenSettings(readOnly: readOnly, forCheck: forCheck), options: tree)
    }

    /// Makes an image; `filled` blocks hold their own number plus 1.
    static func create(
        _ name: String = "disk", in store: TestStore, size: Int, filled: Int = 0, backing: String? = nil,
        _ more: [(CreateOptionKey, String)] = []
    ) throws {
        let opener = opener(store)
        var options = try opener.createOptions(format: "vhdx", filename: name)
        try options.set(.size, to: String(size))
        try options.set(.blockSize, to: String(unit))
        try options.set(.backingFile, to: backing)
        for (key, value) in more { try options.set(key, to: value) }
        try opener.create(name, format: "vhdx", options: options)
        guard filled > 0 else { return }
        let node = try open(store, name, readOnly: false)
        for block in 0..<filled {
            let bytes = [UInt8](repeating: UInt8(block + 1), count: unit)
            try node.write(bytes.span.bytes, at: block * unit)
        }
        try node.close()
    }

    static func image(
        size: Int, filled: Int = 0, _ more: [(CreateOptionKey, String)] = []
    ) throws -> SparseBytes {
        let store = TestStore()
        try create(in: store, size: size, filled: filled, more)
        return try #require(store["disk"])
    }

    static func bytes(_ value: UInt64, _ count: Int = 8) -> [UInt8] {
        ImageBytes.number(value, bytes: count, .little)
    }

    static func firstBytes(_ node: BlockNode) throws -> [UInt8] {
        try stride(from: 0, to: node.length(), by: unit).map { try node.readBytes(at: $0, count: 1)[0] }
    }

    static func check(_ store: TestStore, _ repair: RepairMode = .none) throws -> CheckResult {
        let node = try open(store, readOnly: repair == .none, forCheck: true, ["backing": ""])
        defer { try? node.close() }
        let result = try #require(node.format as? any Checkable).check(repair: repair) { _ in }
        try node.close()
        return result
    }

    /// Makes the checksum of the structure of `count` bytes at `offset` right.
    static func seal(_ file: inout SparseBytes, at offset: Int, count: Int) {
        let bytes = file.read(at: offset, count: count)
        let sum = bytes.span.bytes.crc32c(zeroing: 4) ?? 0
        file.write(self.bytes(UInt64(sum), 4), at: offset + 4)
    }

    /// Changes bytes of both headers, which stay valid.
    static func patchHeaders(_ file: inout SparseBytes, _ bytes: [UInt8], at offset: Int) {
        for place in Vhdx.headerOffsets {
            file.write(bytes, at: place + offset)
            seal(&file, at: place, count: Vhdx.headerBytes)
        }
    }

    /// An image whose newest changes only the log has: block 1 was written and flushed, but not closed.
    static func dirty() throws -> SparseBytes {
        let store = TestStore(["disk": try image(size: 3 * unit, filled: 1)])
        let before = try #require(store["disk"]).read(at: bat, count: Vhdx.pageBytes)
        let node = try open(store, readOnly: false)
        try node.write([UInt8](repeating: 9, count: unit).span.bytes, at: unit)
        try node.flush()
        var file = try #require(store["disk"])
        try node.close()
        file.write(before, at: bat)
        return file
    }
}
