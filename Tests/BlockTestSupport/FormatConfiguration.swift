import BlockCore

/// A format with one set of options, as the conformance suite tests it.
public struct FormatConfiguration: Sendable, CustomStringConvertible {
    public var format: any Creatable.Type
    /// Names and values of create options; not the size and the backing file.
    public var options: [(name: String, value: String)]
    public var virtualSize: Int
    /// The size in bytes of the backing file; `nil` for none.
    public var backingSize: Int?
    /// Whether the backing file is of the same format; raw when not.
    public var backingIsSameFormat = false
    /// Makes the image's files instead of the format's `create`: layouts that this does not make.
    public var makeFiles: (@Sendable (TestStore) throws -> Void)?
    /// Options for every opening of the image.
    public var openOptions: OptionTree
    /// What `key-secret` and the like name.
    public var secrets = SecretSource.none
    /// For formats that cannot mark an image as dirty: a check after a crash may find what is harmless to go
    /// on with, as long as a repair mends it and loses nothing.
    public var checkMayRepairAfterCrash = false
    /// For formats that do not count who uses a cluster: what was written over may leave space behind that
    /// nothing refers to, also without a crash.
    public var leavesLeaks = false
    /// Bitmaps that a new image gets, enabled, by their granularities.
    public var bitmaps: [Int] = []
    /// What the format can do, but not with these options: compressing, keeping snapshots.
    public var compresses = true
    public var keepsSnapshots = true

    public init(
        _ format: any Creatable.Type, options: [(name: String, value: String)] = [], virtualSize: Int,
        backingSize: Int? = nil, openOptions: OptionTree = OptionTree()
    ) {
        self.format = format
        self.options = options
        self.virtualSize = virtualSize
        self.backingSize = backingSize
        self.openOptions = openOptions
    }

    public var description: String {
        let list =
            options.map { "\($0.name)=\($0.value)" }
            + openOptions.keys.map { "\($0)=\(openOptions[$0] ?? "")" }
        let backing = backingSize.map { " backing \($0)" } ?? ""
        let recording = bitmaps.isEmpty ? "" : " bitmaps \(bitmaps)"
        return "\(format.name) [\(list.joined(separator: ","))] size \(virtualSize)\(backing)\(recording)"
    }

    /// Makes the image `disk` (and its backing file `base`) in `store`, and answers what it must hold.
    public func create(in store: TestStore) throws -> ReferenceDisk {
        let backing = try backingSize.map { size throws -> SparseBytes in
            let base = Self.backingContents(size)
            if backingIsSameFormat { try createBacking(base, in: store) } else { store["base"] = base }
            return base
        }
        try createImage(in: store)
        try fillWithZeroes(store)
        return ReferenceDisk(size: virtualSize, backing: backing)
    }

    /// Brings a disk that begins as noise to what the model says of new disks.
    private func fillWithZeroes(_ store: TestStore) throws {
        let node = try open(in: store, settings: OpenSettings(readOnly: false))
        if node.format?.unwrittenReadsAsZero == false { try node.writeZeroes(at: 0, count: virtualSize) }
        try node.close()
    }

    /// Makes the image file alone.
    public func createImage(in store: TestStore) throws {
        if let makeFiles { return try makeFiles(store) }
        let opener = opener(store)
        var values = try opener.createOptions(format: format.name, filename: "disk")
        for option in options { try values.set(name: option.name, to: option.value) }
        try values.set(.size, to: String(virtualSize))
        if backingSize != nil {
            try values.set(.backingFile, to: "base")
            try values.set(.backingFormat, to: backingIsSameFormat ? format.name : "raw")
        }
        try opener.create("disk", format: format.name, options: values)
        if bitmaps.isEmpty { return }
        let node = try open(in: store, settings: OpenSettings(readOnly: false))
        try node.changeBitmaps { keeper throws(BlockError) in
            for granularity in bitmaps {
                try keeper.addBitmap("every \(granularity)", granularity: granularity, isEnabled: true)
            }
        }
        try node.close()
    }

    /// Makes `base`, an image of the same format with those contents.
    private func createBacking(_ contents: SparseBytes, in store: TestStore) throws {
        let opener = opener(store)
        var values = try opener.createOptions(format: format.name, filename: "base")
        try values.set(.size, to: String(contents.count))
        try opener.create("base", format: format.name, options: values)
        let node = try opener.open("base", format: format.name, settings: OpenSettings(readOnly: false))
        try contents.eachStoredChunk { offset, chunk in
            try node.write(Array(chunk).span.bytes, at: offset)
        }
        try node.close()
    }

    /// Opens the image `disk` in `store`.
    public func open(in store: TestStore, settings: OpenSettings) throws(BlockError) -> BlockNode {
        try opener(store).open("disk", format: format.name, settings: settings, options: openOptions)
    }

    func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([format, TestRaw.format]), secrets: secrets)
    }

    /// Data and holes in turn, so that both show through.
    static func backingContents(_ size: Int) -> SparseBytes {
        var contents = SparseBytes(count: size)
        let step = max(4096, size / 16)
        for start in stride(from: 0, to: size, by: step * 2) {
            contents.write(Pattern.bytes(stamp: -1, at: start, count: min(step, size - start)), at: start)
        }
        return contents
    }
}
