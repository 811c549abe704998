import BlockCore
import BlockFormats
import BlockProtocols

/// Small chains of ``FakeFormat`` images in a ``TestStore``, for tests of what is above the formats.
public struct TestImages: Sendable {
    public let store: TestStore
    public let opener: ImageOpener

    public init(_ store: TestStore = TestStore(), policy: OpenPolicy = .anyFile) {
        self.store = store
        opener = ImageOpener(registry: store.registry([FakeFormat.self, RawDriver.self]), policy: policy)
    }

    /// Makes an empty image with clusters of 4096 bytes.
    public func create(_ name: String, size: Int, backing: String? = nil) throws(BlockError) {
        var options = try opener.createOptions(format: "fake", filename: name)
        options.set(.size, to: String(size))
        options.set(.backingFile, to: backing)
        try opener.create(name, format: "fake", options: options)
    }

    /// Makes a raw file of ``Pattern`` bytes.
    public func createRaw(_ name: String, size: Int, stamp: Int = 1) {
        store[name] = SparseBytes(Pattern.bytes(stamp: stamp, at: 0, count: size))
    }

    public func open(
        _ name: String, format: String? = nil, readOnly: Bool = false, cache: CacheMode = .writeback
    ) throws(BlockError) -> BlockNode {
        try opener.open(name, format: format, settings: OpenSettings(readOnly: readOnly, cache: cache))
    }
}

/// The error that `body` throws; `nil` when it throws none.
public func blockError<Result>(_ body: () throws(BlockError) -> Result) -> BlockError? {
    do throws(BlockError) {
        _ = try body()
        return nil
    } catch { return error }
}

/// A node that forgets what is written and reads as zeroes: for formats that keep their bytes elsewhere.
public func nullNode() -> BlockNode {
    BlockNode(
        .storage(NullDriver(sizeBytes: 1 << 30)), filename: "null", settings: OpenSettings(readOnly: false))
}
