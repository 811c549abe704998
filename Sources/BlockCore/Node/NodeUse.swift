import Synchronization

/// The use of nodes by one job.
///
/// Thread-safe.
public final class NodeUse: Sendable {
    /// The job's name, for messages.
    public let user: String
    let onClose: @Sendable () -> Void
    /// The thread whose own operations the use does not exclude; 0 for none.
    private let thread = Atomic<UInt>(0)

    private let hasEnded = Monitor(false)

    /// - Parameter onClose: called when another thread closes a node in use; must make the use end soon.
    public init(by user: String, onClose: @escaping @Sendable () -> Void = {}) {
        self.user = user
        self.onClose = onClose
    }

    /// Makes the calling thread the one that works: it may resize and empty the nodes.
    public func ownedByThisThread() { thread.store(WorkerThreads.current, ordering: .relaxed) }

    /// Marks all of `nodes`, or none.
    ///
    /// - Throws: `busy` when one is in use already.
    public func begin(on nodes: [BlockNode]) throws(BlockError) {
        for (index, node) in nodes.enumerated() {
            do throws(BlockError) { try node.beginUse(self) } catch {
                end(on: Array(nodes[..<index]))
                throw error
            }
        }
    }

    /// Ends the use of all nodes for good.
    public func end(on nodes: [BlockNode]) {
        nodes.forEach { $0.endUse(self) }
        hasEnded.withLock { $0 = true }
        hasEnded.notifyAll()
    }

    /// Makes the use end, and waits for that.
    func stop() {
        onClose()
        hasEnded.wait(until: { $0 }) { _ in }
    }

    var isOwnedByThisThread: Bool { thread.load(ordering: .relaxed) == WorkerThreads.current }
}

extension BlockNode {
    /// Marks the node as used; that of a filter is the mark of the node below all filters.
    ///
    /// - Throws: `busy`, with the holder's name, when another use has not ended; `io` once the node is
    ///   closed.
    public func beginUse(_ use: NodeUse) throws(BlockError) {
        let (holder, isClosed) = unfiltered.state.withLock { state -> (NodeUse?, Bool) in
            if state.use == nil, !state.isClosed { state.use = use }
            return (state.use === use ? nil : state.use, state.isClosed)
        }
        if let holder { throw busy(holder) }
        if isClosed { throw BlockError(.io, "The image is closed", path: filename) }
    }

    /// Ends that use, if it is the present one.
    public func endUse(_ use: NodeUse) {
        unfiltered.state.withLock { state in
            if state.use === use { state.use = nil }
        }
    }

    /// The name of the job that uses the node; `nil` for none.
    public var user: String? { unfiltered.state.withLock { $0.use?.user } }

    /// Refuses an operation that a job on the node excludes, unless the job itself does it.
    ///
    /// - Throws: `busy`.
    func checkUnused() throws(BlockError) {
        guard let use = unfiltered.state.withLock({ $0.use }), !use.isOwnedByThisThread else { return }
        throw busy(use)
    }

    /// Makes the job that uses the node end, before the node is closed.
    func stopUse() {
        guard let use = unfiltered.state.withLock({ $0.use }), !use.isOwnedByThisThread else { return }
        use.stop()
    }

    private func busy(_ use: NodeUse) -> BlockError {
        BlockError(
            .busy, "Node '\(filename)' is busy: block device is in use by block job: \(use.user)",
            path: filename)
    }
}
