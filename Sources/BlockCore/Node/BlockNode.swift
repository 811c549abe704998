import Synchronization

/// The only way to an open image, device or file, with bounds, serialising, backing chain and statistics.
///
/// A node owns its driver, its children (a format's storage, `file` first; a filter's one node) and its
/// backing node. Offsets and lengths are
/// in bytes. Thread-safe. Overlapping writes, zeroings and discards wait for each other and for reads of the
/// same clusters; reads share.
public final class BlockNode: Sendable {
    /// What serves this node.
    public enum Layer: Sendable {
        case storage(any ProtocolDriver)
        case format(any FormatDriver)
        case filter(any FilterDriver)
    }

    struct State {
        var backing: BlockNode?
        var deviceName: String?
        var name: NodeName?
        var user: String?
        var isClosed = false
        /// Where the data in each child ends; known once something of it was found to be missing.
        var storedEnds: [Int: StoredEnd] = [:]
        var writeGate: (@Sendable () throws(BlockError) -> Void)?
    }

    public let layer: Layer
    /// The name by which it was opened, as the user or the overlay gave it.
    public let filename: String
    /// How it can be opened again as it is open now.
    public let naming: NodeNaming
    /// The nodes that hold the format's bytes; ``Extent/child`` counts them. A filter's one node; empty for
    /// protocols.
    public let children: [BlockNode]
    /// What the format uses each child for: `file`, `data-file`, `extents.0`, ...
    public let childRoles: [String]
    /// The further files that the image names, opened or not; without its backing file.
    public let references: [FileReference]
    /// Bytes, operations and time so far.
    public let statistics = NodeStatistics()
    /// How it was opened.
    public let settings: OpenSettings

    let state: Mutex<State>
    private let readOnlyNow: Atomic<Bool>
    /// Closed, or about to be once no request is under way.
    private let closing = Atomic<Bool>(false)
    /// A length that the file had; saves asking for it with every run of the map.
    let seenLength = Atomic<Int>(0)
    let requests = RangeLock()
    /// Something was changed that no flush has made durable yet.
    let needsFlush = Atomic<Bool>(false)
    let clearing: (any Clearing)?
    let recorder: (any BitmapCapable)?
    /// The storage of this node, or a filter here or below, where it wants to hear of events.
    public let eventListener: (any MetadataEventListener)?
    /// The filter of this node itself, where it wants to hear of events.
    let ownListener: (any MetadataEventListener)?

    /// Wraps an open driver. The node closes it.
    ///
    /// - Parameters:
    ///   - children: not for a filter, which has its own.
    ///   - roles: one for each child; those that are left out are `file`, `child.1`, `child.2`, ...
    public init(
        _ layer: Layer, filename: String, children: [BlockNode] = [], roles: [String] = [],
        references: [FileReference] = [], backing: BlockNode? = nil,
        settings: OpenSettings = OpenSettings(), naming: NodeNaming? = nil
    ) {
        var (children, roles) = (children, roles)
        if case .filter(let driver) = layer {
            (children, roles) = ([driver.child], [type(of: driver).childRole])
        }
        self.layer = layer
        self.references = references
        self.filename = filename
        self.naming = naming ?? NodeNaming(plain: filename, driver: "file")
        self.children = children
        childRoles = children.indices.map { index in
            index < roles.count ? roles[index] : index == 0 ? "file" : "child.\(index)"
        }
        self.settings = settings
        state = Mutex(State(backing: backing))
        readOnlyNow = Atomic(settings.readOnly)
        if case .format(let driver) = layer {
            assert(driver.knowsItsAbilities)
            clearing = driver.asClearing
            recorder = driver.asBitmapCapable
        } else {
            clearing = nil
            recorder = nil
        }
        switch layer {
        case .storage(let driver):
            assert(driver.knowsItsAbilities)
            eventListener = driver.asEventListener
            ownListener = nil
        case .filter(let driver):
            eventListener = driver.eventListener
            ownListener = driver.eventListener === driver ? driver.eventListener : nil
        case .format:
            eventListener = nil
            ownListener = nil
        }
    }

    /// The node below a format that holds the image file, or below a filter; `nil` for a protocol.
    public var file: BlockNode? { children.first }
    /// The format driver, where this is a format's node.
    public var format: (any FormatDriver)? {
        if case .format(let driver) = layer { return driver }
        return nil
    }
    /// The protocol driver, where this is a protocol's node.
    public var storage: (any ProtocolDriver)? {
        if case .storage(let driver) = layer { return driver }
        return nil
    }
    /// What tells the innermost file from all others; `nil` where it has no such mark. Several images may lie
    /// in one file, one beside the other.
    public var identity: String? { storage?.identity ?? file?.identity }
    /// The marks of all files that this node and its backing nodes are read from, the image files as well as
    /// data files and extents; of several images in one file that file's.
    public var fileIdentities: Set<String> {
        chain.reduce(into: []) { all, layer in all.formUnion(layer.ownFileIdentities) }
    }
    /// The same without the backing nodes.
    public var ownFileIdentities: Set<String> {
        let node = unfiltered
        if node !== self { return node.ownFileIdentities }
        if let storage { return storage.identity.map { [$0] } ?? [] }
        return children.reduce(into: []) { all, child in all.formUnion(child.fileIdentities) }
    }
    /// `qcow2`, `raw`, `file`, ...
    public var driverName: String {
        switch layer {
        case .storage(let driver): type(of: driver).name
        case .format(let driver): type(of: driver).name
        case .filter(let driver): type(of: driver).name
        }
    }

    /// The next node of the chain; that of a filter is the one of the format below it.
    public var backing: BlockNode? {
        get { unfiltered.state.withLock { $0.backing } }
        set { unfiltered.state.withLock { $0.backing = newValue } }
    }
    public var isReadOnly: Bool { readOnlyNow.load(ordering: .sequentiallyConsistent) }
    /// A name for messages, where the caller gave one.
    public var deviceName: String? {
        get { state.withLock { $0.deviceName } }
        set { state.withLock { $0.deviceName = newValue } }
    }

    /// Keeps the name that the user gave to the node, until it is closed.
    var name: NodeName? {
        get { state.withLock { $0.name } }
        set { state.withLock { $0.name = newValue } }
    }

    /// The nodes from this one down its backing chain.
    public var chain: [BlockNode] {
        var nodes = [self]
        while let next = nodes[nodes.count - 1].backing { nodes.append(next) }
        return nodes
    }

    /// The size of the disk, or the length of the file, in bytes.
    public func length() throws(BlockError) -> Int {
        switch layer {
        case .storage(let driver): try driver.length()
        case .format(let driver): driver.virtualSize
        case .filter(let driver): try driver.length()
        }
    }

    // MARK: Use and life

    /// Marks the node as used by a job.
    ///
    /// - Throws: `busy` when another job has it.
    public func beginUse(by user: String) throws(BlockError) {
        let holder = state.withLock { state -> String? in
            if state.user == nil { state.user = user }
            return state.user == user ? nil : state.user
        }
        if let holder {
            throw BlockError(.busy, "Node '\(filename)' is busy: in use by \(holder)", path: filename)
        }
    }

    /// Ends the use that `beginUse` began.
    public func endUse() { state.withLock { $0.user = nil } }

    /// On return, everything written before is durable and reachable after a crash.
    public func flush() throws(BlockError) {
        if isReadOnly { return }
        let began = statistics.now()
        // A write that ends meanwhile sets it again.
        needsFlush.store(false, ordering: .relaxed)
        do throws(BlockError) {
            switch layer {
            case .storage(let driver): try driver.flush()
            case .format(let driver):
                file?.emit(.flushToSystem)
                try driver.flush()
            case .filter(let driver): try driver.flush()
            }
        } catch {
            needsFlush.store(true, ordering: .relaxed)
            throw error
        }
        statistics.count(.flush, bytes: 0, since: began)
    }

    /// Has the system begin to store what was written to the files of this node. A hint: nothing is durable.
    public func startWriteback() {
        if isReadOnly { return }
        switch layer {
        case .storage(let driver): driver.startWriteback()
        case .filter(let driver): driver.startWriteback()
        case .format: for child in children { child.startWriteback() }
        }
    }

    private func flushIfNeeded() throws(BlockError) {
        if needsFlush.load(ordering: .relaxed) { try flush() }
    }

    /// Has `gate` asked whenever the node, which an image names, is about to be made writable.
    func askBeforeWriting(_ gate: @escaping @Sendable () throws(BlockError) -> Void) {
        state.withLock { $0.writeGate = gate }
    }

    /// Switches between read-only and read-write. Children follow; the backing node does not.
    ///
    /// - Throws: `denied` where the ``OpenPolicy`` does not allow writing; what the drivers throw.
    public func reopen(readOnly: Bool) throws(BlockError) {
        guard readOnly != isReadOnly else { return }
        if !readOnly { try state.withLock { $0.writeGate }?() }
        let ticket = requests.acquireAll()
        defer { requests.releaseAll(ticket) }
        if readOnly { try flushIfNeeded() }
        switch layer {
        case .storage(let driver): try driver.reopen(readOnly: readOnly)
        case .format(let driver):
            try driver.willReopen(readOnly: readOnly)
            do throws(BlockError) {
                for child in children { try child.reopen(readOnly: readOnly) }
                if !readOnly { try refuseIfCut() }
                try driver.didReopen(readOnly: readOnly)
            } catch {
                // All or nothing: a driver that takes itself for read-only would write nothing back.
                for child in children { try? child.reopen(readOnly: !readOnly) }
                try? driver.didReopen(readOnly: !readOnly)
                throw error
            }
        case .filter(let driver): try reopen(driver, readOnly: readOnly)
        }
        readOnlyNow.store(readOnly, ordering: .sequentiallyConsistent)
    }

    /// Waits for the requests that are under way, then closes driver, children and backing nodes; all that
    /// was written is durable then. Closing twice does nothing. A request that comes later fails.
    ///
    /// - Throws: what the driver could not write back; everything is closed all the same.
    public func close() throws(BlockError) {
        var failure: BlockError?
        var next: BlockNode? = self
        // One after the other: a long chain needs no deep stack.
        while let node = next { next = node.closeLayer(&failure) }
        if let failure { throw failure }
    }

    /// Closes this layer, and answers the one below; `nil` also when it is closed already.
    private func closeLayer(_ failure: inout BlockError?) -> BlockNode? {
        let (wasClosed, backing) = state.withLock { state in
            defer { state.isClosed = true }
            state.name = nil
            return (state.isClosed, state.backing)
        }
        guard !wasClosed else { return nil }
        if let error = closeAlone() { failure = failure ?? error }
        for node in children {
            do throws(BlockError) { try node.close() } catch { failure = failure ?? error }
        }
        return backing
    }

    /// Frees the layers below one by one: left to themselves, each would free the next from its own frame.
    deinit {
        var next = takeBacking()
        while next != nil, isKnownUniquelyReferenced(&next) { next = next?.takeBacking() }
    }

    private func takeBacking() -> BlockNode? {
        state.withLock { state in
            defer { state.backing = nil }
            return state.backing
        }
    }

    /// Flushes and closes the driver when no request is under way.
    private func closeAlone() -> BlockError? {
        let ticket = requests.acquireAll()
        defer { requests.releaseAll(ticket) }
        var failure: BlockError?
        do throws(BlockError) { try flushIfNeeded() } catch { failure = error }
        closing.store(true, ordering: .sequentiallyConsistent)
        do throws(BlockError) { try closeDriver() } catch { failure = failure ?? error }
        return failure
    }

    /// - Throws: `io` once the node is closed.
    func checkOpen() throws(BlockError) {
        if closing.load(ordering: .sequentiallyConsistent) {
            throw BlockError(.io, "The image is closed", path: filename)
        }
    }

    /// Looks again, with the request's ticket, whether it may change anything: it may have waited for the
    /// node to be reopened or closed.
    ///
    /// - Throws: `io` once the node is closed; `readOnly`.
    func checkChangeable() throws(BlockError) {
        try checkOpen()
        try checkWritable()
    }

    private func closeDriver() throws(BlockError) {
        switch layer {
        case .storage(let driver): driver.close()
        case .format(let driver): try driver.close()
        case .filter(let driver): driver.close()
        }
    }
}
