/// A guest's disk: a name, the node at the top of its chain, and what happens when a request fails.
///
/// The guest reads and writes here, so that a job can give it another top node under way (a mirror or a
/// commit that pivots). Each request goes to the node that is the top when it begins. Offsets and counts are
/// in bytes. Thread-safe.
///
/// ```swift
/// let device = BlockDevice(name: "disk0", root: try opener.open("disk.qcow2", settings: settings))
/// device.policy.write = .enospc
/// try device.write(bytes, at: 0)
/// if device.ioStatus == .noSpace { device.resume() }
/// try device.close()
/// ```
public final class BlockDevice: Sendable {
    struct State {
        var root: BlockNode?
        var underWay = 0
        /// The thread for which all requests are held back, and how many times.
        var drainer: UInt?
        var drains = 0
        var policy = ErrorPolicy()
        var ioStatus = IOStatus.ok
        var isStopped = false
        var writesThrough = false
        var isClosed = false
        var tray = Tray()
    }

    /// The name for messages, such as `disk0`.
    public let name: String
    let state: Monitor<State>

    /// - Parameter root: the top node, which the device owns and closes; `nil` for a device without a medium.
    public init(name: String, root: BlockNode?) {
        self.name = name
        state = Monitor(State(root: root))
        root?.deviceName = name
    }

    /// The node at the top; `nil` without a medium.
    public var root: BlockNode? { state.withLock { $0.root } }

    /// Whether writes are made durable one by one, as by a disk without a write cache; `false` at first.
    public var writesThrough: Bool {
        get { state.withLock { $0.writesThrough } }
        set { state.withLock { $0.writesThrough = newValue } }
    }

    // MARK: Requests

    /// Fills `buffer` from `offset`; zeroes where an error is ignored.
    ///
    /// - Throws: `notFound` without a medium; as ``BlockNode/read(into:at:)``, unless the policy says
    ///   otherwise.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let range = Self.range(offset, buffer.byteCount)
        while true {
            let node = try enter()
            do throws(BlockError) {
                defer { leave() }
                return try node.read(into: &buffer, at: offset)
            } catch {
                if try ignores(error, .read, range) { return buffer.fill() }
            }
        }
    }

    /// The `count` bytes at `offset`.
    ///
    /// - Throws: as ``read(into:at:)``.
    /// - Complexity: O(*count*) in memory.
    public func readBytes(at offset: Int, count: Int) throws(BlockError) -> [UInt8] {
        try [UInt8](zeroed: count) { (bytes) throws(BlockError) in try read(into: &bytes, at: offset) }
    }

    /// Stores `bytes` at `offset`.
    ///
    /// - Throws: `notFound` without a medium; as ``BlockNode/write(_:at:)``, unless the policy says
    ///   otherwise.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let range = Self.range(offset, bytes.byteCount)
        while true {
            let node = try enter()
            do throws(BlockError) {
                defer { leave() }
                try node.write(bytes, at: offset)
                return try finishWrite(node)
            } catch {
                if try ignores(error, .write, range) { return }
            }
        }
    }

    /// Makes a range read as zeroes.
    ///
    /// - Throws: as ``write(_:at:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags = .mayUnmap) throws(BlockError) {
        try change(Self.range(offset, count)) { node throws(BlockError) in
            try node.writeZeroes(at: offset, count: count, flags: flags)
        }
    }

    /// Gives a range's space back.
    ///
    /// - Throws: as ``write(_:at:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try change(Self.range(offset, count)) { node throws(BlockError) in
            try node.discard(at: offset, count: count)
        }
    }

    /// On return, everything written before is durable.
    ///
    /// - Throws: as ``write(_:at:)``.
    public func flush() throws(BlockError) {
        try change(nil) { node throws(BlockError) in try node.flush() }
    }

    /// The size of the disk, in bytes.
    ///
    /// - Throws: `notFound` without a medium; `io`.
    public func length() throws(BlockError) -> Int {
        try withRoot { node throws(BlockError) in try node.length() }
    }

    /// Changes the size of the disk, in bytes.
    ///
    /// New space reads as zeroes.
    ///
    /// - Throws: `notFound` without a medium; as ``BlockNode/resize(to:preallocation:)``.
    public func resize(to size: Int, preallocation: Preallocation = .off) throws(BlockError) {
        try withRoot { node throws(BlockError) in try node.resize(to: size, preallocation: preallocation) }
    }

    /// Runs `body` as one request on the top node, which stays the top meanwhile.
    ///
    /// Errors are reported, whatever the policy.
    ///
    /// - Throws: `notFound` without a medium; errors of `body`.
    public func withRoot<Result>(_ body: (BlockNode) throws(BlockError) -> Result) throws(BlockError)
        -> Result
    {
        let node = try enter()
        defer { leave() }
        return try body(node)
    }

    /// Runs a request under the policy for writes.
    private func change(
        _ range: Range<Int>?, _ body: (BlockNode) throws(BlockError) -> Void
    ) throws(BlockError) {
        while true {
            let node = try enter()
            do throws(BlockError) {
                defer { leave() }
                try body(node)
                return try finishWrite(node)
            } catch {
                if try ignores(error, .write, range) { return }
            }
        }
    }

    private static func range(_ offset: Int, _ count: Int) -> Range<Int> {
        let (end, overflow) = offset.addingReportingOverflow(max(0, count))
        return offset..<(overflow ? .max : end)
    }

    private func finishWrite(_ node: BlockNode) throws(BlockError) {
        if writesThrough { try node.flush() }
    }

    // MARK: The top node

    /// Waits until no request is under way, and runs `body` while none begins, except those of this thread.
    ///
    /// Not to be called within a request, such as in ``withRoot(_:)``.
    ///
    /// - Throws: errors of `body`.
    public func drained<Result>(_ body: () throws(BlockError) -> Result) throws(BlockError) -> Result {
        let thread = WorkerThreads.current
        state.wait(until: { $0.drainer == nil || $0.drainer == thread }) { state in
            state.drainer = thread
            state.drains += 1
        }
        state.wait(until: { $0.underWay == 0 }) { _ in }
        defer { endDrain() }
        return try body()
    }

    /// Puts `new` in the place of `old`, which the caller closes.
    ///
    /// No request is under way meanwhile; those that wait go to `new`.
    ///
    /// - Parameter new: the device's from now on.
    /// - Throws: `invalidArgument` when `old` is not the top node.
    public func replaceRoot(_ old: BlockNode?, with new: BlockNode?) throws(BlockError) {
        try drained { () throws(BlockError) in
            let isTop = state.withLock { state in
                guard state.root === old, !state.isClosed else { return false }
                state.root = new
                return true
            }
            guard isTop else {
                throw BlockError(.invalidArgument, "The node is not the top of device '\(name)'")
            }
            new?.deviceName = name
            // The limits are the device's.
            if let group = old?.throttleGroup, let new, new.throttleGroup == nil {
                try new.setLimits(nil, group: group)
            }
        }
    }

    /// Ends the device: cancels its jobs, lets waiting requests fail, closes the top node and its chain.
    ///
    /// - Throws: as ``BlockNode/close()``.
    public func close() throws(BlockError) {
        // A job may put another node on top before it ends.
        for node in root?.chain ?? [] { node.stopUse() }
        let root = state.withLock { state in
            state.isClosed = true
            return state.root
        }
        state.notifyAll()
        try root?.close()
    }

    // MARK: Under way

    /// Begins a request.
    ///
    /// - Throws: `notFound` without a medium; `io` once the device is closed.
    func enter() throws(BlockError) -> BlockNode {
        let thread = WorkerThreads.current
        return try state.wait(until: { state in
            state.isClosed || !state.isStopped && (state.drainer == nil || state.drainer == thread)
        }) { state throws(BlockError) -> BlockNode in
            if state.isClosed { throw BlockError(.io, "The device is closed", path: name) }
            guard let root = state.root else {
                throw BlockError(.notFound, "No medium found", errno: Self.noMedium, path: name)
            }
            state.underWay += 1
            return root
        }
    }

    /// ENOMEDIUM of Linux.
    private static let noMedium: Int32 = 123

    func leave() {
        let isLast = state.withLock { state in
            state.underWay -= 1
            return state.underWay == 0
        }
        if isLast { state.notifyAll() }
    }

    private func endDrain() {
        state.withLock { state in
            state.drains -= 1
            if state.drains == 0 { state.drainer = nil }
        }
        state.notifyAll()
    }
}
