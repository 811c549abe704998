import BlockCore
import Synchronization

/// What the filters of one test were asked, in order: `NAME CALL`. Thread-safe.
public final class FilterLog: Sendable {
    private let calls = Mutex<[String]>([])

    public init() {}

    func note(_ call: String) { calls.withLock { $0.append(call) } }

    /// The calls since the last time.
    public func take() -> [String] {
        calls.withLock { calls in
            defer { calls = [] }
            return calls
        }
    }
}

/// A filter that changes nothing and notes what it is asked. Thread-safe.
///
/// `driver=counting,file.…`, with the option `label` for the name in the log.
public final class CountingFilter: OpenableFilter, MetadataEventListener {
    public static let name = "counting"

    public let child: BlockNode
    public let log: FilterLog
    private let label: String

    public init(over child: BlockNode, label: String = name, log: FilterLog = FilterLog()) {
        self.child = child
        self.label = label
        self.log = log
    }

    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> CountingFilter {
        let label = options.take("label") ?? name
        return CountingFilter(over: try request.openChild(), label: label)
    }

    private func note(_ call: String) { log.note("\(label) \(call)") }

    public func hear(_ event: MetadataEvent) { note(event.rawValue) }
    public func length() throws(BlockError) -> Int {
        note("length")
        return try child.length()
    }
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        note("read")
        try child.read(into: &buffer, at: offset)
    }
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        note("write")
        try child.write(bytes, at: offset)
    }
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        note("zero")
        try child.writeZeroes(at: offset, count: count, flags: flags)
    }
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        note("discard")
        try child.discard(at: offset, count: count)
    }
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) {
        note("resize")
        try child.resize(to: size, preallocation: preallocation)
    }
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        note("extent")
        return try child.layerExtent(at: offset, limit: limit)
    }
    public func flush() throws(BlockError) {
        note("flush")
        try child.flush()
    }
    public func startWriteback() {
        note("writeback")
        child.startWriteback()
    }
    public func willReopen(readOnly: Bool) throws(BlockError) { note("will reopen") }
    public func didReopen(readOnly: Bool) throws(BlockError) { note("did reopen") }
    public func close() { note("close") }
}
