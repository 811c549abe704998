/// Stands over one node of any kind, changes some of the requests to it, and passes the others through.
///
/// A filter over a file serves the format above it; a filter over a format shows that format's disk, with its
/// backing chain, and can be an image, the middle of a chain, or the storage of another format. It is no
/// layer of its own in a chain: maps count the format below it. Each requirement has a default that passes
/// the call to ``child`` exactly once, so that a filter implements only what it changes. A filter with
/// further nodes below lists them in ``children``: the node flushes, reopens and closes all of them.
///
/// All offsets and lengths are in bytes. Every call blocks its thread and may come from any thread; the node
/// over the filter has checked that the filter is open and, for changes, writable. Bounds are the child's:
/// a filter does not know whether it stands over a file, which grows, or a disk, which does not.
public protocol FilterDriver: AnyObject, Sendable {
    /// The name in `driver=` options and in `info`, such as `throttle`.
    static var name: String { get }
    /// The role of the node below, in options and in `info`: `file` or `image`.
    static var childRole: String { get }

    /// The node below, whose disk the filter shows. The filter's own node closes and reopens it.
    var child: BlockNode { get }
    /// All nodes below with their roles, ``child`` first. They do not change.
    var children: [FilterChild] { get }
    /// Whether the filter shows the disk of ``child``: its chain, snapshots and map. If not, it makes a disk
    /// of its own from several nodes, and nothing looks through it.
    var showsChild: Bool { get }
    /// The alignment that requests should have, in bytes; 1 for no alignment.
    var requestAlignment: Int { get }
    /// The listener for events of the driver above: the filter itself, or a filter or storage below it.
    var eventListener: (any MetadataEventListener)? { get }
    /// Where the requests of the filter's node wait before they begin; `nil` for a filter without limits.
    var limiter: ThrottleMember? { get }

    /// The length of the file, or the size of the disk, in bytes.
    ///
    /// - Throws: as ``BlockNode/length()``.
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
    /// Gives back the space of `count` bytes at `offset`.
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
    /// Asks the system to begin storing the written bytes.
    func startWriteback()
    /// The nodes below are about to be reopened; no request is under way.
    ///
    /// - Throws: errors of the filter, of any kind; the nodes keep their old mode then.
    func willReopen(readOnly: Bool) throws(BlockError)
    /// The nodes below were reopened. If this throws, they are reopened in their old mode.
    ///
    /// - Throws: errors of the filter, of any kind.
    func didReopen(readOnly: Bool) throws(BlockError)
    /// Writes what the filter keeps, and frees its own resources. The nodes below are closed afterwards; no
    /// call follows.
    ///
    /// - Throws: errors of writing, of any kind; the nodes below are closed all the same.
    func close() throws(BlockError)
}

/// A node below a filter, with its role in options and in `info`, such as `file`, `test` or `children.0`.
public struct FilterChild: Sendable {
    /// The name of its options and in `info`.
    public var role: String
    /// The node itself.
    public var node: BlockNode

    /// A node in that role.
    public init(role: String, node: BlockNode) {
        self.role = role
        self.node = node
    }
}

extension FilterDriver {
    public static var childRole: String { "file" }
    public var children: [FilterChild] { [FilterChild(role: Self.childRole, node: child)] }
    public var showsChild: Bool { true }
    public var requestAlignment: Int { child.requestAlignment }
    public var eventListener: (any MetadataEventListener)? { child.eventListener }
    public var limiter: ThrottleMember? { nil }
    /// - Throws: as ``BlockNode/length()``.
    public func length() throws(BlockError) -> Int { try child.length() }
    /// - Throws: as ``BlockNode/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try child.read(into: &buffer, at: offset)
    }
    /// - Throws: as ``BlockNode/write(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try child.write(bytes, at: offset)
    }
    /// - Throws: as ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try child.writeZeroes(at: offset, count: count, flags: flags)
    }
    /// - Throws: as ``BlockNode/discard(at:count:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try child.discard(at: offset, count: count)
    }
    /// - Throws: as ``BlockNode/resize(to:preallocation:)``.
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) {
        try child.resize(to: size, preallocation: preallocation)
    }
    /// - Throws: as ``BlockNode/layerExtent(at:limit:)``.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try child.layerExtent(at: offset, limit: limit)
    }
    /// - Throws: as ``BlockNode/flush()``; the first error of all nodes below.
    public func flush() throws(BlockError) {
        var failures = FirstFailure()
        for below in children { failures.note { () throws(BlockError) in try below.node.flush() } }
        try failures.throwFirst()
    }
    public func startWriteback() { for below in children { below.node.startWriteback() } }
    /// - Throws: nothing by default.
    public func willReopen(readOnly: Bool) throws(BlockError) {}
    /// - Throws: nothing by default.
    public func didReopen(readOnly: Bool) throws(BlockError) {}
    /// - Throws: nothing by default.
    public func close() throws(BlockError) {}
}

extension FilterDriver where Self: MetadataEventListener {
    public var eventListener: (any MetadataEventListener)? { self }
}

/// A filter that open options can name, as listed in the ``DriverRegistry``.
public protocol OpenableFilter: FilterDriver {
    /// The prefixes of file names that mean this filter, such as `blkdebug`.
    static var schemes: [String] { get }
    /// Splits a name with one of ``schemes``: the part about the filter becomes options.
    ///
    /// - Returns: the name of the node below; empty when only options name it.
    /// - Throws: `invalidArgument` for a name that lacks a part.
    static func childName(in filename: String, _ options: inout OptionTree) throws(BlockError) -> String
    /// The name that means this filter with these options over files of these names, in the order of
    /// ``FilterDriver/children``; `nil` when no name does.
    static func filename(over names: [String], _ options: OptionTree) -> String?
    /// The options that are part of the disk's identity, in the order in which `info` prints them; `nil` for
    /// all. Those of the nodes below are not among them.
    static var optionsInName: [String]? { get }
    /// Opens the filter over ``FilterRequest/openChild(_:probing:)``, which it calls once, and takes its own
    /// keys out of `options`. If it throws, the caller closes the nodes below.
    ///
    /// - Throws: `invalidArgument` for invalid options; as ``FilterRequest/openChild(_:probing:)``.
    static func open(_ request: FilterRequest, options: inout OptionTree) throws(BlockError) -> Self
}

extension OpenableFilter {
    public static var schemes: [String] { [] }
    /// - Throws: nothing by default.
    public static func childName(
        in filename: String, _ options: inout OptionTree
    ) throws(BlockError) -> String { filename }
    public static func filename(over names: [String], _ options: OptionTree) -> String? { nil }
    public static var optionsInName: [String]? { nil }
}
