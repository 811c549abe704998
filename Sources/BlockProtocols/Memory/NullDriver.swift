import BlockCore

/// A device of a given size that reads as zeroes and drops all writes; for measuring.
///
/// Thread-safe.
public final class NullDriver: ProtocolDriver {
    public static let name = "null-co"

    private let sizeBytes: Int

    /// A device of `sizeBytes` bytes.
    public init(sizeBytes: Int) { self.sizeBytes = sizeBytes }

    /// `driver=null-co,size=…,read-zeroes=on`; the size defaults to 1 GiB.
    public static let entry = ProtocolEntry(
        name: name, schemes: ["null-co"], needsFilename: false,
        open: { (_, options, _) throws(BlockError) -> any ProtocolDriver in
            _ = try options.takeFlag("read-zeroes")
            return NullDriver(sizeBytes: try options.takeSize("size") ?? .gib(1))
        },
        naming: { (filename, options) in
            NodeNaming(filename, driver: name, options, inName: ["size", "read-zeroes"])
        })

    /// - Throws: nothing.
    public func length() throws(BlockError) -> Int { sizeBytes }
    public func allocatedSize() -> Int? { 0 }
    /// - Throws: nothing.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) { buffer.fill() }
    /// - Throws: nothing.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {}
    /// - Throws: nothing.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {}
    /// - Throws: nothing.
    public func discard(at offset: Int, count: Int) throws(BlockError) {}
    /// - Throws: `unsupported`.
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        throw BlockError(.unsupported, "Operation not supported")
    }
    /// - Throws: nothing.
    public func flush() throws(BlockError) {}
    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.zero(hostOffset: offset), length: limit)
    }
    /// - Throws: nothing.
    public func reopen(readOnly: Bool) throws(BlockError) {}
    public func close() {}
}
