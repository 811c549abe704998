import Synchronization

/// Where a node's requests wait for its limits. Thread-safe.
final class NodeGate: Sendable {
    private struct Members {
        /// The place of the node's throttle filter.
        var driver: ThrottleMember?
        /// The place that ``BlockNode/setLimits(_:group:)`` made.
        var own: ThrottleMember?
        /// How many times the requests were told to pass.
        var passes = 0

        var all: [ThrottleMember] { [driver, own].compactMap(\.self) }
    }

    private let isOpen: Atomic<Bool>
    private let members: Mutex<Members>

    init(_ driver: ThrottleMember?) {
        isOpen = Atomic(driver == nil)
        members = Mutex(Members(driver: driver))
    }

    /// Whether requests may have to wait: read at each request, so that a node without limits pays one load.
    @inline(__always) var isClosed: Bool { !isOpen.load(ordering: .relaxed) }

    /// The place that ``replace(with:)`` set.
    var own: ThrottleMember? { members.withLock { $0.own } }

    /// Blocks the calling thread until a request of that many bytes may begin.
    func wait(_ direction: IOLimits.Direction, bytes: Int) {
        let all = members.withLock { $0.all }
        for member in all { member.wait(direction, bytes: bytes) }
    }

    /// Sets another place, or none; requests that wait at the old one begin at once.
    func replace(with member: ThrottleMember?) {
        let old = members.withLock { members in
            let old = members.own
            members.own = member
            for _ in 0..<members.passes { member?.beginPassing() }
            isOpen.store(members.all.isEmpty, ordering: .relaxed)
            return old
        }
        old?.beginPassing()
    }

    /// Lets all requests begin at once until ``endPassing()``.
    func beginPassing() {
        members.withLock { members in
            members.passes += 1
            for member in members.all { member.beginPassing() }
        }
    }

    func endPassing() {
        members.withLock { members in
            members.passes -= 1
            for member in members.all { member.endPassing() }
        }
    }
}

/// Limits of a node.
extension BlockNode {
    /// The limits of this node, or of the group that it is in; `nil` for none.
    ///
    /// Those of a throttle filter are its ``ThrottleDriver`` group's.
    public var limits: IOLimits? { gate.own?.group.limits }

    /// The group that the node is in, by ``setLimits(_:group:)``.
    public var throttleGroup: ThrottleGroup? { gate.own?.group }

    /// Sets the limits that this node's reads and writes wait for; a flush never waits.
    ///
    /// Zeroing and discarding count as writing. Requests that wait for the node's old limits go on at once.
    ///
    /// - Parameters:
    ///   - limits: the limits, of the whole `group` if there is one; `nil` to keep those of the group, or to
    ///     have none.
    ///   - group: the group to be in; `nil` for limits of the node's own.
    /// - Throws: `invalidArgument` for limits that contradict each other; nothing is changed then.
    public func setLimits(_ limits: IOLimits?, group: ThrottleGroup? = nil) throws(BlockError) {
        if let group {
            if let limits { try group.setLimits(limits) }
            if gate.own?.group !== group { gate.replace(with: group.join()) }
        } else if let limits {
            if let own = gate.own?.group, own.isPrivate { return try own.setLimits(limits) }
            let own = try ThrottleGroup(name: "", limits: limits, clock: SystemClock(), isPrivate: true)
            gate.replace(with: own.join())
        } else {
            gate.replace(with: nil)
        }
    }

    /// Waits until the limits let a request of that many bytes begin. Called before the request takes its
    /// ticket.
    ///
    /// - Throws: `io` when the node was closed in the meantime.
    @inline(__always)
    func passGate(_ direction: IOLimits.Direction, _ bytes: Int) throws(BlockError) {
        if gate.isClosed { try waitAtGate(direction, bytes) }
    }

    private func waitAtGate(_ direction: IOLimits.Direction, _ bytes: Int) throws(BlockError) {
        gate.wait(direction, bytes: bytes)
        try checkOpen()
    }

    /// Waits until no other request is under way, as ``RangeLock/acquireAll()``. Requests that wait for
    /// limits, here or at a node below, begin at once meanwhile, so that this does not wait for them.
    func acquireAll() -> Int {
        let gates = closedGates
        for gate in gates { gate.beginPassing() }
        defer { for gate in gates { gate.endPassing() } }
        return requests.acquireAll()
    }

    /// The gates of this node and of all nodes below it at which requests may wait.
    private var closedGates: [NodeGate] {
        var gates: [NodeGate] = []
        var nodes = [self]
        // A loop, not a recursion: a long chain needs no deep stack.
        while let node = nodes.popLast() {
            if node.gate.isClosed { gates.append(node.gate) }
            nodes += node.children
            if let backing = node.state.withLock({ $0.backing }) { nodes.append(backing) }
        }
        return gates
    }
}
