import Synchronization

/// Follows the changes of a node's disk.
///
/// Jobs, filters and bitmaps in memory hang here.
///
/// Calls come on the thread of the request. Offsets and counts are in bytes.
public protocol ChangeObserver: AnyObject, Sendable {
    /// The bytes of `range` are about to change. The range, in whole units of the format, is locked against
    /// other requests; what the node reads as now is read with ``BlockNode/readUnlocked(into:at:)``.
    ///
    /// - Throws: errors that make the request fail, with nothing changed.
    func willChange(_ range: Range<Int>) throws(BlockError)
    /// `bytes` are at `offset` now; the range is still locked.
    func didWrite(_ bytes: RawSpan, at offset: Int)
    /// `range` reads as zeroes now.
    func didZero(_ range: Range<Int>)
    /// The space of `range` was given back.
    func didDiscard(_ range: Range<Int>)
    /// The bytes of `range` were changed in another way.
    func didChange(_ range: Range<Int>)
    /// A request failed that may have changed bytes of `range`; the range is still locked.
    func didFail(_ range: Range<Int>)
    /// The disk has another size, in bytes. No other request is under way.
    func didResize(to size: Int)
}

extension ChangeObserver {
    /// - Throws: nothing by default.
    public func willChange(_ range: Range<Int>) throws(BlockError) {}
    public func didWrite(_ bytes: RawSpan, at offset: Int) {
        didChange(offset..<offset + bytes.byteCount)
    }
    public func didZero(_ range: Range<Int>) { didChange(range) }
    public func didDiscard(_ range: Range<Int>) { didChange(range) }
    public func didChange(_ range: Range<Int>) {}
    public func didFail(_ range: Range<Int>) { didChange(range) }
    public func didResize(to size: Int) {}
}

/// The observers of one node. Thread-safe.
final class ChangeObservers: Sendable {
    /// Whether there are any: read at each request, so that a node without observers pays one load.
    private let isEmpty = Atomic<Bool>(true)
    private let list = Mutex<[any ChangeObserver]>([])

    /// The threads whose writes leave the disk's contents as they are.
    private let quiet = Mutex<Set<UInt>>([])
    private let hasQuiet = Atomic<Bool>(false)

    /// Those that hear of a change by this thread.
    var all: [any ChangeObserver] {
        isEmpty.load(ordering: .acquiring) || isQuiet ? [] : list.withLock { $0 }
    }

    /// Whether the writes of this thread leave the disk's contents as they are.
    var isQuiet: Bool {
        hasQuiet.load(ordering: .acquiring) && quiet.withLock { $0.contains(WorkerThreads.current) }
    }

    func setQuiet(_ isQuiet: Bool) {
        let thread = WorkerThreads.current
        quiet.withLock { threads in
            if isQuiet { threads.insert(thread) } else { threads.remove(thread) }
            hasQuiet.store(!threads.isEmpty, ordering: .releasing)
        }
    }

    func add(_ observer: any ChangeObserver) {
        list.withLock { $0.append(observer) }
        isEmpty.store(false, ordering: .releasing)
    }

    func remove(_ observer: any ChangeObserver) {
        list.withLock { list in
            list.removeAll { $0 === observer }
            isEmpty.store(list.isEmpty, ordering: .releasing)
        }
    }
}

/// What jobs and filters need of a node in use.
extension BlockNode {
    /// Adds an observer, after waiting until no request is under way: it sees each later change whole.
    ///
    /// - Parameter body: called before any other request begins, such as to look at the disk.
    /// - Throws: `unsupported` for a node without a format; errors of `body`, with nothing added.
    public func addObserver(
        _ observer: any ChangeObserver, _ body: () throws(BlockError) -> Void = {}
    ) throws(BlockError) {
        let node = unfiltered
        guard node.format != nil else {
            throw BlockError(
                .unsupported, "Node '\(filename)' has no format; open it with driver=raw over the file",
                path: filename)
        }
        try node.drained { () throws(BlockError) in
            try body()
            node.observers.add(observer)
        }
    }

    /// Takes an observer away, after waiting until no request is under way.
    public func removeObserver(_ observer: any ChangeObserver) {
        let node = unfiltered
        let ticket = node.acquireAll()
        defer { node.requests.releaseAll(ticket) }
        node.observers.remove(observer)
    }

    /// Runs `body` while no other request of the node is under way; requests of this thread pass.
    ///
    /// - Throws: errors of `body`.
    public func drained<Result>(_ body: () throws(BlockError) -> Result) throws(BlockError) -> Result {
        let node = unfiltered
        let ticket = node.acquireAll()
        defer { node.requests.releaseAll(ticket) }
        return try body()
    }

    /// Runs `body` while no other request changes `range`, in whole units of the format; with `exclusive`,
    /// also while none reads it.
    ///
    /// Requests of this thread pass.
    ///
    /// - Throws: errors of `body`.
    public func holding<Result>(
        _ range: Range<Int>, exclusive: Bool, _ body: () throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        let node = unfiltered
        let units = node.format.map { node.clusters(range, $0) } ?? range
        let ticket = node.requests.acquire(units, exclusive: exclusive)
        defer { node.requests.release(ticket) }
        return try body()
    }

    /// Runs `body`, whose writes to the node on this thread leave all bytes of the disk as they are: bitmaps
    /// and observers do not hear of them.
    ///
    /// - Throws: errors of `body`.
    public func storingUnchanged<Result>(
        _ body: () throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        let node = unfiltered
        node.observers.setQuiet(true)
        defer { node.observers.setQuiet(false) }
        return try body()
    }

    /// Fills `buffer` with the node's bytes from `offset` on without waiting for other requests: for
    /// ``ChangeObserver/willChange(_:)``.
    ///
    /// Bytes behind the end of the disk are zeroes.
    ///
    /// - Throws: as ``read(into:at:)``.
    public func readUnlocked(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try checkOpen()
        try readOld(into: &buffer, at: offset)
    }

    /// Marks `range` as changed in the image's bitmaps and asks the observers. Called before the bytes
    /// change.
    @inline(__always)
    func noteChange(in range: Range<Int>) throws(BlockError) {
        if range.isEmpty { return }
        if let recorder, recorder.recordsChanges, !observers.isQuiet { try recorder.recordChange(in: range) }
        for observer in observers.all { try observer.willChange(range) }
    }

    /// Asks the observers before `range` is cut off the end of the disk: bitmaps of the image follow its
    /// size.
    func willChange(_ range: Range<Int>) throws(BlockError) {
        for observer in observers.all { try observer.willChange(range) }
    }
}
