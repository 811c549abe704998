/// Stands over one node of any kind, changes some of the requests to it, and passes the others through.
///
/// A filter over a file serves the format above it; a filter over a format shows that format's disk, with its
/// backing chain, and can be an image, the middle of a chain, or the storage of another format. It is no layer
/// of its own in a chain: maps count the format below it. Each requirement has a default that passes the call
/// to ``child`` exactly once, so that a filter states what it changes and nothing else.
///
/// All offsets and lengths are in bytes. Every call blocks its thread and may come from any thread; the node
/// over the filter has checked that the filter is open and, for changes, writable. Bounds are the child's:
/// a filter does not know whether it stands over a file, which grows, or a disk, which does not.
public protocol FilterDriver: AnyObject, Sendable {
    /// The name in `driver=` options and in `info`, such as `throttle`.
    static var name: String { get }
    /// What options and `info` call the node below: `file` or `image`.
    static var childRole: String { get }

    /// The node that does the work. The filter's own node closes and reopens it.
    var child: BlockNode { get }
    /// The alignment that requests should have, in bytes: 1 where it does not matter.
    var requestAlignment: Int { get }
    /// Who hears of the steps of the driver above: the filter itself or somebody below it.
    var eventListener: (any MetadataEventListener)? { get }

    /// The length of the file, or the size of the disk, in bytes.
    ///
    /// - Throws: what asking the child throws.
    func length() throws(BlockError) -> Int
    /// Fills all of `buffer` from `offset`.
    ///
    /// - Throws: as ``BlockNode/read(into:at:)``.
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError)
    /// Stores all of `bytes` at `offset`.
    ///
    /// - Throws: as ``BlockNode/write(_:at:)``.
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError)
    /// Makes `count` bytes at `offset` read as zeroes.
    ///
    /// - Throws: as ``BlockNode/writeZeroes(at:count:flags:)``.
    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError)
    /// Gives the space of `count` bytes at `offset` back.
    ///
    /// - Throws: as ``BlockNode/discard(at:count:)``.
    func discard(at offset: Int, count: Int) throws(BlockError)
    /// Changes the length in bytes. No other request of the filter's node is under way.
    ///
    /// - Throws: as ``BlockNode/resize(to:preallocation:)``.
    func resize(to size: Int, preallocation: Preallocation) throws(BlockError)
    /// The run at `offset` of the child's own layer, at most `limit` bytes long.
    ///
    /// - Throws: as ``BlockNode/layerExtent(at:limit:)``.
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent
    /// On return, everything written before the call is durable.
    ///
    /// - Throws: as ``BlockNode/flush()``.
    func flush() throws(BlockError)
    /// Has the system begin to store what was written.
    func startWriteback()
    /// The child is about to be reopened; no request is under way.
    ///
    /// - Throws: what keeps the filter from it; the child stays as it is then.
    func willReopen(readOnly: Bool) throws(BlockError)
    /// The child was reopened; where this throws, it goes back to its old mode.
    ///
    /// - Throws: what keeps the filter from the new mode.
    func didReopen(readOnly: Bool) throws(BlockError)
    /// Gives the filter's own resources back. The child is closed afterwards; no call follows.
    func close()
}

extension FilterDriver {
    public static var childRole: String { "file" }
    public var requestAlignment: Int { child.requestAlignment }
    public var eventListener: (any MetadataEventListener)? { child.eventListener }
    public func length() throws(BlockError) -> Int { try child.length() }
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try child.read(into: &buffer, at: offset)
    }
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try child.write(bytes, at: offset)
    }
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try child.writeZeroes(at: offset, count: count, flags: flags)
    }
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try child.discard(at: offset, count: count)
    }
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) {
        try child.resize(to: size, preallocation: preallocation)
    }
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try child.layerExtent(at: offset, limit: limit)
    }
    public func flush() throws(BlockError) { try child.flush() }
    public func startWriteback() { child.startWriteback() }
    public func willReopen(readOnly: Bool) throws(BlockError) {}
    public func didReopen(readOnly: Bool) throws(BlockError) {}
    public func close() {}
}

extension FilterDriver where Self: MetadataEventListener {
    public var eventListener: (any MetadataEventListener)? { self }
}

/// A filter that options ask for: what the ``DriverRegistry`` lists.
public protocol OpenableFilter: FilterDriver {
    /// The prefixes of file names that mean this filter, such as `blkdebug`.
    static var schemes: [String] { get }
    /// Takes a name with one of ``schemes`` apart: what it says of the filter becomes options.
    ///
    /// - Returns: the name of what lies below; empty where only options say that.
    /// - Throws: `invalidArgument` for a name that lacks a part.
    static func childName(in filename: String, _ options: inout OptionTree) throws(BlockError) -> String
    /// What stands before a file's name to have it filtered with these options; `nil` where no name does that.
    static func namePrefix(_ options: OptionTree) -> String?
    /// Opens the filter over ``FilterRequest/openChild(_:)``, which it calls once; takes its own keys out of
    /// `options`. Where it throws, the child is closed.
    ///
    /// - Throws: `invalidArgument` for options that make no sense; what opening the child throws.
    static func open(_ request: FilterRequest, options: inout OptionTree) throws(BlockError) -> Self
}

extension OpenableFilter {
    public static var schemes: [String] { [] }
    public static func childName(
        in filename: String, _ options: inout OptionTree
    ) throws(BlockError) -> String { filename }
    public static func namePrefix(_ options: OptionTree) -> String? { nil }
}
