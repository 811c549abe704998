import BlockCore

/// A protocol driver over another one; what a filter does not change it passes on.
public protocol FilterDriver: UseDeclaring {
    /// The driver that does the work.
    var below: any ProtocolDriver { get }
}

extension FilterDriver {
    public func length() throws(BlockError) -> Int { try below.length() }
    public func allocatedSize() -> Int? { below.allocatedSize() }
    public var identity: String? { below.identity }
    public var place: String? { below.place }
    public var requestAlignment: Int { below.requestAlignment }
    public var zeroInitialised: Bool { below.zeroInitialised }
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try below.read(into: &buffer, at: offset)
    }
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try below.write(bytes, at: offset)
    }
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try below.writeZeroes(at: offset, count: count, flags: flags)
    }
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try below.discard(at: offset, count: count)
    }
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try below.truncate(to: length, preallocation: preallocation)
    }
    public func flush() throws(BlockError) { try below.flush() }
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try below.extent(at: offset, limit: limit)
    }
    public func reopen(readOnly: Bool) throws(BlockError) { try below.reopen(readOnly: readOnly) }
    public func close() { below.close() }
    public func declareUse(toleratingWriters: Bool) throws(BlockError) {
        try (below as? any UseDeclaring)?.declareUse(toleratingWriters: toleratingWriters)
    }
}
