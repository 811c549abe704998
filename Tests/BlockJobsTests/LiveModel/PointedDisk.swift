import BlockCore
import BlockTestSupport

/// A file of a store that calls a function at each access.
final class PointedDisk: ProtocolDriver {
    static let name = "file"
    private let inner: any ProtocolDriver
    private let point: @Sendable () -> Void

    private init(_ inner: any ProtocolDriver, _ point: @escaping @Sendable () -> Void) {
        self.inner = inner
        self.point = point
    }

    /// The files of `store`, with that call.
    static func entry(_ store: TestStore, _ point: @escaping @Sendable () -> Void) -> ProtocolEntry {
        let entry = store.entry
        return ProtocolEntry(
            name: "file", createOptions: entry.createOptions,
            open: { (name, options, settings) throws(BlockError) in
                PointedDisk(try entry.open(name, &options, settings), point)
            },
            create: entry.create)
    }

    func length() throws(BlockError) -> Int { try inner.length() }
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        point()
        try inner.read(into: &buffer, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        point()
        try inner.write(bytes, at: offset)
    }
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        point()
        try inner.writeZeroes(at: offset, count: count, flags: flags)
    }
    func discard(at offset: Int, count: Int) throws(BlockError) {
        point()
        try inner.discard(at: offset, count: count)
    }
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        point()
        try inner.truncate(to: length, preallocation: preallocation)
    }
    func flush() throws(BlockError) {
        point()
        try inner.flush()
    }
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try inner.extent(at: offset, limit: limit)
    }
    func reopen(readOnly: Bool) throws(BlockError) { try inner.reopen(readOnly: readOnly) }
    func close() { inner.close() }
}
