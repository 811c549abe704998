import BlockCore

/// Does to an image from a stranger what the commands would do, in memory, and counts on no answer.
///
/// Reads and maps within limits, so that a huge disk takes no time.
public struct Gauntlet: Sendable {
    let registry: @Sendable (TestStore) -> DriverRegistry
    let format: String
    private var options = OptionTree()
    private var secrets = SecretSource.none
    /// What the options on secrets begin with, where the image needs any.
    private var secretPrefix: String?
    /// Whether what the image names as its backing file is opened too.
    var opensBacking = false

    /// How many extents are followed, and how many bytes are read.
    static let maximumExtents = 20_000
    static let maximumBytes = 64 << 20

    public init(formats: [any FormatDriver.Type], format: String) {
        registry = { $0.registry(formats) }
        self.format = format
    }

    /// Opens images with a password from now on; their options on secrets begin with `prefix`.
    mutating func unlock(_ password: String, prefix: String) {
        secretPrefix = prefix
        options[prefix + "key-secret"] = "s0"
        secrets = SecretSource(["s0": KeyMaterial(password), "s1": KeyMaterial("other")])
    }

    /// The image `disk` with these bytes, opened.
    public func open(
        _ store: TestStore, readOnly: Bool = true, forCheck: Bool = false
    ) throws(BlockError) -> BlockNode {
        let settings = OpenSettings(readOnly: readOnly, withoutBacking: !opensBacking, forCheck: forCheck)
        return try ImageOpener(registry: registry(store), secrets: secrets)
            .open("disk", format: format, settings: settings, options: options)
    }

    /// Runs `body` on the opened image and closes it.
    public func with<Result>(
        _ store: TestStore, readOnly: Bool = true, forCheck: Bool = false,
        _ body: (BlockNode) throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        let node = try open(store, readOnly: readOnly, forCheck: forCheck)
        let result: Result
        do throws(BlockError) { result = try body(node) } catch {
            try? node.close()
            throw error
        }
        try node.close()
        return result
    }

    /// Follows the map from the start.
    public func map(_ node: BlockNode) throws(BlockError) {
        let size = try node.length()
        var offset = 0
        var extents = 0
        while offset < size, extents < Self.maximumExtents {
            offset += try node.status(at: offset, limit: size - offset).length
            extents += 1
        }
    }

    /// Reads what is allocated, and a little of the rest.
    public func readAll(_ node: BlockNode) throws(BlockError) {
        let size = try node.length()
        let buffer = AlignedBuffer(count: 1 << 20)
        var offset = 0
        var done = 0
        while offset < size, done < Self.maximumBytes {
            let extent = try node.layerExtent(at: offset, limit: size - offset)
            let count = min(extent.length, buffer.count)
            var bytes = buffer.mutableBytes(0..<count)
            try node.read(into: &bytes, at: offset)
            done += max(count, 4096)
            let skips = extent.status == .unallocated || extent.status == .zero(hostOffset: nil)
            offset += skips ? extent.length : count
        }
    }

    /// A check's result; repairs where asked, in place.
    public func check(_ store: TestStore, repair: RepairMode = .none) throws(BlockError) -> CheckResult {
        try with(store, readOnly: repair == .none, forCheck: true) { node throws(BlockError) -> CheckResult in
            guard let checkable = node.format as? any Checkable else { return CheckResult() }
            return try checkable.check(repair: repair) { _ in }
        }
    }

    /// Tells and lists everything; errors are an answer.
    public func look(_ store: TestStore) {
        _ = try? with(store) { node throws(BlockError) in
            _ = try node.format?.describe()
            _ = try (node.format as? any SnapshotCapable)?.snapshots()
        }
        _ = try? with(store) { node throws(BlockError) in
            let keeper = try node.bitmapKeeper()
            for bitmap in try keeper.bitmaps().prefix(100) { _ = try? keeper.bitmap(named: bitmap.name).runs }
        }
        _ = try? with(store) { node throws(BlockError) in try map(node) }
        _ = try? with(store) { node throws(BlockError) in try readAll(node) }
        for name in ["1", "one"] {
            _ = try? with(store) { node throws(BlockError) in
                try (node.format as? any SnapshotCapable)?.selectSnapshot(id: nil, name: name)
                try readAll(node)
            }
        }
    }

    /// Every kind of change of bitmaps; errors are an answer. Then the image is closed.
    public func changeBitmaps(_ store: TestStore) {
        guard let node = try? open(store, readOnly: false) else { return }
        let names = (try? node.bitmapKeeper().bitmaps().prefix(20).map(\.name)) ?? []
        func each(_ body: (any BitmapCapable, String) throws(BlockError) -> Void) {
            for name in names {
                try? node.changeBitmaps { keeper throws(BlockError) in try body(keeper, name) }
            }
            try? node.write([UInt8](repeating: 0x77, count: 512).span.bytes, at: 0)
        }
        each { keeper, name throws(BlockError) in try keeper.setBitmap(name, isEnabled: true) }
        each { keeper, name throws(BlockError) in
            for other in names { try? keeper.mergeBitmap(keeper.bitmap(named: other), into: name) }
        }
        try? node.changeBitmaps { keeper throws(BlockError) in
            try keeper.addBitmap("new", granularity: 512, isEnabled: true)
        }
        each { keeper, name throws(BlockError) in try keeper.setBitmap(name, isEnabled: false) }
        each { keeper, name throws(BlockError) in try keeper.clearBitmap(name) }
        try? node.reopen(readOnly: true)
        try? node.reopen(readOnly: false)
        each { keeper, name throws(BlockError) in try keeper.removeBitmap(name) }
        try? node.close()
    }

    /// Fills key slots and erases them; errors are an answer. Then the image is closed.
    public func changeKeySlots(_ store: TestStore) {
        guard let prefix = secretPrefix, let node = try? open(store, readOnly: false) else { return }
        for state in [
            ["state": "active", "new-secret": "s1", "iter-time": "0"], ["state": "active", "keyslot": "7"],
            ["state": "inactive", "old-secret": "s1"], ["state": "inactive", "keyslot": "0"],
        ] {
            guard let driver = node.format as? any Amendable else { continue }
            var values = CreateOptions(type(of: driver).amendOptions)
            for (name, value) in state { try? values.set(name: prefix + name, to: value) }
            try? node.amend(Amendment(values, force: true, secrets: secrets))
        }
        try? node.close()
    }

    /// Every kind of change, each on the same open image; errors are an answer. Then the image is closed.
    public func change(_ store: TestStore) {
        guard let node = try? open(store, readOnly: false) else { return }
        let size = (try? node.length()) ?? 0
        let snapshots = node.format as? any SnapshotCapable
        for offset in [0, 65536, size / 2, size - 512] where offset >= 0 && size - offset >= 512 {
            try? node.write([UInt8](repeating: 0x77, count: 512).span.bytes, at: offset / 512 * 512)
        }
        try? node.flush()
        try? node.discard(at: 0, count: min(size, 1 << 20))
        try? node.writeZeroes(at: 0, count: min(size, 1 << 20))
        try? node.flush()
        try? snapshots?.createSnapshot(SnapshotInfo(id: "", name: "new"))
        try? node.write([UInt8](repeating: 0x78, count: min(size, 1 << 17)).span.bytes, at: 0)
        try? snapshots?.applySnapshot("new")
        try? snapshots?.applySnapshot("one")
        try? snapshots?.deleteSnapshot(named: "new")
        try? snapshots?.deleteSnapshot(named: "one")
        try? node.resize(to: size + 1 << 20)
        try? node.resize(to: max(512, size / 2 / 512 * 512))
        try? node.close()
    }
}
