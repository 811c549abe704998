import Synchronization

/// Nodes that share limits on their speed.
///
/// Requests that have to wait do so on their own threads. Within a node they begin in the order of arrival;
/// nodes take turns; of a read and a write that could both begin, the one whose direction did not begin last
/// does. Thread-safe.
///
/// ```swift
/// var limits = IOLimits()
/// limits.operations.total.average = 500
/// let group = try ThrottleGroup(name: "slow", limits: limits)
/// try first.setLimits(nil, group: group)
/// try second.setLimits(nil, group: group)
/// ```
public final class ThrottleGroup: Sendable {
    /// The name by which options refer to the group, if it has one.
    public let name: String
    /// Whether it was made for one node's own limits.
    let isPrivate: Bool
    /// Moves the waiting requests.
    private let clock: any BlockClock
    private let state: Monitor<ThrottleState>
    /// Read at each request, so that a group without limits costs one load.
    private let isLimited: Atomic<Bool>

    /// - Parameter clock: the clock by which requests wait.
    /// - Throws: `invalidArgument` for limits that contradict each other.
    public convenience init(
        name: String = "", limits: IOLimits = IOLimits(), clock: any BlockClock = SystemClock()
    ) throws(BlockError) {
        try self.init(name: name, limits: limits, clock: clock, isPrivate: false)
    }

    init(name: String, limits: IOLimits, clock: any BlockClock, isPrivate: Bool) throws(BlockError) {
        try limits.validate()
        self.name = name
        self.clock = clock
        self.isPrivate = isPrivate
        state = Monitor(ThrottleState(LimitReckoning(limits, at: clock.now())))
        isLimited = Atomic(!limits.isUnlimited)
    }

    /// The present limits.
    public var limits: IOLimits { state.withLock { $0.reckoning.limits } }

    /// Changes the limits.
    ///
    /// Waiting requests are reckoned anew, as after a pause.
    ///
    /// - Throws: `invalidArgument`; the limits are unchanged then.
    public func setLimits(_ limits: IOLimits) throws(BlockError) {
        try limits.validate()
        let now = clock.now()
        change { $0.reckoning = LimitReckoning(limits, at: now) }
        isLimited.store(!limits.isUnlimited, ordering: .relaxed)
    }

    /// A new member.
    ///
    /// It leaves when it is freed.
    public func join() -> ThrottleMember {
        ThrottleMember(self, number: state.withLock { $0.number() })
    }

    /// Changes the state and makes all waiting requests look at it.
    fileprivate func change(_ body: (inout ThrottleState) -> Void) {
        state.withLock { state in
            body(&state)
            state.revision += 1
        }
        state.notifyAll()
    }

    fileprivate func wait(_ direction: IOLimits.Direction, bytes: Int, of member: Int) {
        guard isLimited.load(ordering: .relaxed) else { return }
        let request = state.withLock {
            $0.beginOrQueue(direction, bytes: bytes, of: member, at: clock.now())
        }
        guard let request else { return }
        while let wait = state.withLock({ $0.beginQueued(request, at: clock.now()) }) {
            _ = clock.wait(on: state, until: wait.deadline) { $0.revision != wait.revision }
        }
        state.notifyAll()
    }
}

/// The place of one node in a ``ThrottleGroup``.
///
/// Thread-safe.
public final class ThrottleMember: Sendable {
    /// The group whose limits hold.
    public let group: ThrottleGroup
    private let number: Int

    fileprivate init(_ group: ThrottleGroup, number: Int) {
        self.group = group
        self.number = number
    }

    /// Blocks the calling thread until a request of that many bytes may begin.
    public func wait(_ direction: IOLimits.Direction, bytes: Int) {
        group.wait(direction, bytes: bytes, of: number)
    }

    /// Lets the member's requests begin at once, those that wait and later ones, until as many calls of
    /// ``endPassing()``.
    ///
    /// They still count.
    public func beginPassing() { group.change { [number] in $0.passing[number, default: 0] += 1 } }

    /// Ends what one ``beginPassing()`` began.
    public func endPassing() {
        group.change { [number] state in
            let depth = state.passing[number, default: 0]
            state.passing[number] = depth > 1 ? depth - 1 : nil
        }
    }

    deinit { group.change { [number] in $0.passing[number] = nil } }
}

/// The state of a group, and its one decision: which request begins.
private struct ThrottleState: Sendable {
    struct Request {
        var direction: IOLimits.Direction
        var bytes: Int
        var member: Int
        var ticket: Int
    }

    struct Wait {
        /// The time of the next attempt, in nanoseconds; `Int.max` for a request that has not the turn.
        var deadline: Int
        /// The state that this follows from; the attempt is repeated once there is another.
        var revision: Int
    }

    var reckoning: LimitReckoning
    /// How often the requests of a member were told to pass.
    var passing: [Int: Int] = [:]
    /// Counts the changes that waiting requests must look at.
    var revision = 0
    private var queues = [ThrottleQueue(), ThrottleQueue()]
    private var lastDirection = IOLimits.Direction.write
    private var numbers = 0

    init(_ reckoning: LimitReckoning) { self.reckoning = reckoning }

    /// A number that nothing has yet.
    mutating func number() -> Int {
        numbers += 1
        return numbers
    }

    /// Begins a request, and returns `nil`; or queues it.
    mutating func beginOrQueue(
        _ direction: IOLimits.Direction, bytes: Int, of member: Int, at now: Int
    ) -> Request? {
        let mayBegin =
            passing[member] != nil
            || queues[direction.rawValue].isEmpty && reckoning.wait(direction, at: now) == 0
                && !isDue(direction.other, at: now)
        if mayBegin {
            begin(direction, bytes)
            return nil
        }
        let request = Request(direction: direction, bytes: bytes, member: member, ticket: number())
        queues[direction.rawValue].append(request.ticket, of: member)
        return request
    }

    /// Begins a queued request, and returns `nil`; or returns how long it waits before it tries again.
    mutating func beginQueued(_ request: Request, at now: Int) -> Wait? {
        let direction = request.direction
        if passing[request.member] == nil {
            guard queues[direction.rawValue].head == request.ticket else { return wait(until: .max) }
            let left = reckoning.wait(direction, at: now)
            guard left == 0 else { return wait(until: now + left) }
            // The other direction's thread is awake or about to wake: its deadline has passed too.
            if direction == lastDirection, isDue(direction.other, at: now) { return wait(until: .max) }
        }
        queues[direction.rawValue].remove(request.ticket, of: request.member)
        begin(direction, request.bytes)
        revision += 1
        return nil
    }

    /// Whether a queued request in that direction could begin.
    private mutating func isDue(_ direction: IOLimits.Direction, at now: Int) -> Bool {
        !queues[direction.rawValue].isEmpty && reckoning.wait(direction, at: now) == 0
    }

    private mutating func begin(_ direction: IOLimits.Direction, _ bytes: Int) {
        reckoning.begin(direction, bytes: bytes)
        lastDirection = direction
    }

    private func wait(until deadline: Int) -> Wait { Wait(deadline: deadline, revision: revision) }
}
