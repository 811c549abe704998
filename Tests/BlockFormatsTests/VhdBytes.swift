import BlockCore
import BlockFormats
import BlockTestSupport

/// A VHD image in a store, made by the driver and then changed byte by byte as others have made it.
struct VhdBytes {
    let store: TestStore
    let name: String

    static func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([VhdDriver.self, RawDriver.self]), sourceDate: 1_700_000_000)
    }

    /// The image that is there.
    init(_ store: TestStore, name: String = "disk") {
        self.store = store
        self.name = name
    }

    /// Makes an image with these options.
    init(
        _ name: String = "disk", size: Int, _ options: [String: String] = [:],
        in store: TestStore = TestStore()
    ) throws(BlockError) {
        self.store = store
        self.name = name
        let opener = Self.opener(store)
        var values = try opener.createOptions(format: "vpc", filename: name)
        for (key, value) in options { try values.set(name: key, to: value) }
        try values.set(.size, to: String(size))
        try opener.create(name, format: "vpc", options: values)
    }

    var bytes: SparseBytes {
        get { store[name] ?? SparseBytes() }
        nonmutating set { store[name] = newValue }
    }

    func open(
        readOnly: Bool = true, format: String? = "vpc", forCheck: Bool = false, withoutBacking: Bool = false,
        options: [String: String] = [:]
    ) throws(BlockError) -> BlockNode {
        try Self.open(
            store, name, readOnly: readOnly, format: format, forCheck: forCheck,
            withoutBacking: withoutBacking, options: options)
    }

    static func open(
        _ store: TestStore, _ name: String = "disk", readOnly: Bool = true, format: String? = "vpc",
        forCheck: Bool = false, withoutBacking: Bool = false, options: [String: String] = [:]
    ) throws(BlockError) -> BlockNode {
        var tree = OptionTree()
        for (key, value) in options { tree[key] = value }
        let settings = OpenSettings(readOnly: readOnly, withoutBacking: withoutBacking, forCheck: forCheck)
        return try opener(store).open(name, format: format, settings: settings, options: tree)
    }

    static func check(_ store: TestStore, _ repair: RepairMode = .none) throws(BlockError) -> CheckResult {
        let node = try open(store, readOnly: repair == .none, forCheck: true, withoutBacking: true)
        defer { try? node.close() }
        guard let checkable = node.format as? any Checkable else {
            throw BlockError(.unsupported, "no checks")
        }
        return try checkable.check(repair: repair) { _ in }
    }

    /// The first byte of every `unit` bytes of the disk.
    static func firstBytes(_ node: BlockNode, unit: Int) throws(BlockError) -> [UInt8] {
        var result: [UInt8] = []
        for offset in stride(from: 0, to: try node.length(), by: unit) {
            result += try node.readBytes(at: offset, count: 1)
        }
        return result
    }

    /// Writes whole units of one byte each; 0 leaves a unit out.
    func fill(_ values: [UInt8], unit: Int) throws(BlockError) {
        let node = try open(readOnly: false)
        for (index, value) in values.enumerated() where value != 0 {
            try node.write([UInt8](repeating: value, count: unit).span.bytes, at: index * unit)
        }
        try node.close()
    }

    // MARK: Changing bytes

    /// Where the footers are.
    var footers: [Int] {
        let end = bytes.count - 512
        return bytes.read(at: 0, count: 8) == Array("conectix".utf8) ? [0, end] : [end]
    }

    /// Changes bytes of the footers, with checksums that are right.
    func changeFooters(_ change: [UInt8], at offset: Int, only footer: Int? = nil) {
        for place in footers where footer == nil || footers.firstIndex(of: place) == footer {
            self.change(change, at: offset, within: place..<place + 512, checksum: 64)
        }
    }

    /// Changes bytes of the header, with a checksum that is right.
    func changeHeader(_ change: [UInt8], at offset: Int) {
        self.change(change, at: offset, within: 512..<1536, checksum: 36)
    }

    private func change(_ change: [UInt8], at offset: Int, within range: Range<Int>, checksum: Int) {
        var file = bytes
        var part = file.read(at: range.lowerBound, count: range.count)
        part.replaceSubrange(offset..<offset + change.count, with: change)
        part.replaceSubrange(checksum..<checksum + 4, with: [0, 0, 0, 0])
        let sum = ~part.reduce(0 as UInt32) { $0 &+ UInt32($1) }
        part.replaceSubrange(checksum..<checksum + 4, with: ImageBytes.big(sum))
        file.write(part, at: range.lowerBound)
        bytes = file
    }

    /// Makes an empty image one with other blocks, whose table takes as much of the file.
    func setBlocks(count: Int, bytes blockBytes: Int) {
        changeHeader(ImageBytes.big(UInt32(count)) + ImageBytes.big(UInt32(blockBytes)), at: 28)
        let end = (Self.table + count * 4 + 511) / 512 * 512
        bytes.write([UInt8](repeating: 0xFF, count: end - Self.table), at: Self.table)
    }

    /// The block table of images without a parent.
    static let table = 1536

    func entry(_ block: Int) -> UInt32 {
        bytes.read(at: Self.table + block * 4, count: 4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    func setEntry(_ block: Int, _ value: UInt32) {
        bytes.write(ImageBytes.big(value), at: Self.table + block * 4)
    }
}
