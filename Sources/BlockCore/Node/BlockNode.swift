import Synchronization

/// An open image, device or file: every request to a driver passes through its node, which checks bounds,
/// serialises overlapping requests, follows the backing chain and counts.
///
/// A node owns its driver, its children (a format's storage, `file` first; a filter's nodes) and its
/// backing node. Offsets and lengths are in bytes. Thread-safe. Overlapping writes, zeroings and discards
/// wait for each other and for reads of the same units; reads share.
///
/// ```swift
/// let registry = DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all)
/// let disk = try ImageOpener(registry: registry).open(
///     "disk.qcow2", settings: OpenSettings(readOnly: false))
/// let sector = try disk.readBytes(at: 0, count: 512)
/// try disk.write(sector.span.bytes, at: 1024)
/// try disk.close()
/// ```
public final class BlockNode: Sendable {
    /// The driver that serves this node, by its kind.
    public enum Layer: Sendable {
        case storage(any ProtocolDriver)
        case format(any FormatDriver)
        case filter(any FilterDriver)
    }

    struct State {
        var backing: BlockNode?
        var deviceName: String?
        var name: NodeName?
        var use: NodeUse?
        var isClosed = false
        /// The end of the data in each child; set once some of it was found to be missing.
        var storedEnds: [Int: StoredEnd] = [:]
        var writeGate: (@Sendable () throws(BlockError) -> Void)?
        /// Opens the format's driver once more, read-only.
        var reread: (@Sendable () throws(BlockError) -> any FormatDriver)?
    }

    /// The node's driver, by its kind.
    public let layer: Layer
    /// The name by which it was opened, as the user or the overlay stated it.
    public let filename: String
    /// The name or the options that open the same disk again.
    public let naming: NodeNaming
    /// The nodes that hold the format's bytes, which ``Extent/child`` counts; those below a filter; empty for
    /// protocols.
    public let children: [BlockNode]
    /// The role of each child in the format: `file`, `data-file`, `extents.0`, ...
    public let childRoles: [String]
    /// The further files that the image names, opened or not; without its backing file.
    public let references: [FileReference]
    /// Bytes, operations and time so far.
    public let statistics = NodeStatistics()
    /// The settings with which it was opened.
    public let settings: OpenSettings

    let state: Mutex<State>
    private let readOnlyNow: Atomic<Bool>
    /// Set when the node is closed, or is only waiting for the requests under way.
    private let closing = Atomic<Bool>(false)
    /// The last known length of the file, in bytes: saves asking for it with every run of the map.
    let seenLength = Atomic<Int>(0)
    let requests = RangeLock()
    /// Where requests wait for the node's limits.
    let gate: NodeGate
    let observers = ChangeObservers()
    /// How many users want reads to copy bytes of the backing node into this layer.
    let copyOnReadUsers: Atomic<Int>
    /// Set while a change is not yet flushed.
    let needsFlush = Atomic<Bool>(false)
    let clearing: (any Clearing)?
    let recorder: (any BitmapCapable)?
    /// The listener for events of drivers above: the storage of this node, or a filter here or below; `nil`
    /// if neither listens.
    public let eventListener: (any MetadataEventListener)?
    /// The filter of this node itself, if it listens for events.
    let ownListener: (any MetadataEventListener)?

    /// Wraps an open driver.
    ///
    /// The node closes it.
    ///
    /// - Parameters:
    ///   - children: ignored for a filter, which has its own.
    ///   - roles: one for each child; missing ones become `file`, `child.1`, `child.2`, ...
    public init(
        _ layer: Layer, filename: String, children: [BlockNode] = [], roles: [String] = [],
        references: [FileReference] = [], backing: BlockNode? = nil,
        settings: OpenSettings = OpenSettings(), naming: NodeNaming? = nil
    ) {
        var (children, roles) = (children, roles)
        if case .filter(let driver) = layer {
            let below = driver.children
            (children, roles) = (below.map(\.node), below.map(\.role))
            gate = NodeGate(driver.limiter)
        } else {
            gate = NodeGate(nil)
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
        copyOnReadUsers = Atomic(settings.copyOnRead ? 1 : 0)
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
    /// The format driver, if this is a format's node.
    public var format: (any FormatDriver)? {
        if case .format(let driver) = layer { return driver }
        return nil
    }
    /// The protocol driver, if this is a protocol's node.
    public var storage: (any ProtocolDriver)? {
        if case .storage(let driver) = layer { return driver }
        return nil
    }
    /// The identity of the innermost file, different for every file; `nil` for storage without one.
    ///
    /// One file may hold several images.
    public var identity: String? { storage?.identity ?? file?.identity }
    /// The identities of all files that this node and its backing nodes read: image files, data files and
    /// extents.
    ///
    /// Several images in one file have that file's.
    ///
    /// - Complexity: O(*files of the chain*).
    public var fileIdentities: Set<String> {
        chain.reduce(into: []) { all, layer in all.formUnion(layer.ownFileIdentities) }
    }
    /// The same without the backing nodes.
    public var ownFileIdentities: Set<String> {
        if let storage { return storage.identity.map { [$0] } ?? [] }
        var all: Set<String> = []
        for child in children {
            // The backing nodes of a filter are those of the format below.
            all.formUnion(child === shownChild ? child.ownFileIdentities : child.fileIdentities)
        }
        return all
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
    /// A name for messages, if the caller set one.
    public var deviceName: String? {
        get { state.withLock { $0.deviceName } }
        set { state.withLock { $0.deviceName = newValue } }
    }

    /// The name that the user gave the node (`node-name`); `nil` for none, and once it is closed.
    public var nodeName: String? { name?.text }

    /// The node's name, if the user gave one; reserved until the node is closed.
    var name: NodeName? {
        get { state.withLock { $0.name } }
        set { state.withLock { $0.name = newValue } }
    }

    /// The nodes from this one down its backing chain, this one first.
    ///
    /// - Complexity: O(*layers of the chain*).
    public var chain: [BlockNode] {
        var nodes = [self]
        while let next = nodes[nodes.count - 1].backing { nodes.append(next) }
        return nodes
    }

    /// The size of the disk, or the length of the file, in bytes.
    ///
    /// - Throws: `io`.
    public func length() throws(BlockError) -> Int {
        switch layer {
        case .storage(let driver): try driver.length()
        case .format(let driver): driver.virtualSize
        case .filter(let driver): try driver.length()
        }
    }

    // MARK: Use and life

    /// On return, everything written before is durable and reachable after a crash.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    public func flush() throws(BlockError) {
        if isReadOnly { return }
        var request = begin(.flush)
        defer { end(request) }
        // A write that ends during the flush sets it again.
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
        request.outcome = .done
    }

    /// Asks the system to begin storing the bytes written to the files of this node.
    ///
    /// A hint: nothing is durable.
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

    /// Sets a check of the policy: `gate` is called before this node, which an image names, becomes writable.
    func askBeforeWriting(_ gate: @escaping @Sendable () throws(BlockError) -> Void) {
        state.withLock { $0.writeGate = gate }
    }

    /// Switches between read-only and read-write, after waiting until no request is under way.
    ///
    /// Children follow; the backing node does not.
    ///
    /// - Throws: `denied` when the ``OpenPolicy`` does not allow writing; `corrupt` for a cut file; `busy`,
    ///   `io`, `readOnly`. The node keeps its old mode then.
    public func reopen(readOnly: Bool) throws(BlockError) {
        guard readOnly != isReadOnly else { return }
        if !readOnly { try state.withLock { $0.writeGate }?() }
        let ticket = acquireAll()
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
                // All or nothing: a driver left in read-only mode would write nothing back.
                for child in children { try? child.reopen(readOnly: !readOnly) }
                try? driver.didReopen(readOnly: !readOnly)
                throw error
            }
        case .filter(let driver): try reopen(driver, readOnly: readOnly)
        }
        readOnlyNow.store(readOnly, ordering: .sequentiallyConsistent)
    }

    /// Cancels a job that uses the node, waits for the requests under way, flushes, then closes the driver,
    /// the children and the backing nodes.
    ///
    /// Closing twice does nothing. A later request fails with `io`.
    ///
    /// - Throws: the first error of writing back, such as `io` or `noSpace`; everything is closed all the
    ///   same.
    public func close() throws(BlockError) {
        var failure: BlockError?
        var next: BlockNode? = self
        // A loop, not a recursion: a long chain needs no deep stack.
        while let node = next { next = node.closeLayer(&failure) }
        if let failure { throw failure }
    }

    /// Closes this layer and returns the one below; `nil` also when this one is closed already.
    private func closeLayer(_ failure: inout BlockError?) -> BlockNode? {
        let wasClosed = state.withLock { state in
            defer { state.isClosed = true }
            state.name = nil
            return state.isClosed
        }
        guard !wasClosed else { return nil }
        stopUse()
        // A job that has just ended may have changed the chain.
        let backing = state.withLock { $0.backing }
        if let error = closeAlone() { failure = failure ?? error }
        for node in children {
            do throws(BlockError) { try node.close() } catch { failure = failure ?? error }
        }
        return backing
    }

    /// Frees the layers below one by one: without this loop each would free the next in a nested call.
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

    /// Flushes and closes the driver, after waiting until no request is under way.
    private func closeAlone() -> BlockError? {
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        var failure: BlockError?
        do throws(BlockError) { try flushIfNeeded() } catch { failure = error }
        closing.store(true, ordering: .sequentiallyConsistent)
        // For good: a request that comes later fails at once.
        gate.beginPassing()
        do throws(BlockError) { try closeDriver() } catch { failure = failure ?? error }
        return failure
    }

    var isClosed: Bool { closing.load(ordering: .sequentiallyConsistent) }

    /// The driver of this node, which must not be used once it is closed: its descriptor may be another
    /// file's by then.
    ///
    /// - Throws: `io` once the node is closed.
    func openStorage(_ driver: any ProtocolDriver) throws(BlockError) -> any ProtocolDriver {
        try checkOpen()
        return driver
    }

    /// - Throws: `io` once the node is closed.
    func checkOpen() throws(BlockError) {
        if isClosed {
            throw BlockError(.io, "The image is closed", path: filename)
        }
    }

    /// Checks again, once a request has its ticket, that the node is open and writable: it may have been
    /// reopened or closed while the request waited.
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
        case .filter(let driver): try driver.close()
        }
    }
}
